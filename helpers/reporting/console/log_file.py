"""The log file: every line of a run with its time."""

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TextIO

from helpers.log import send_log_to
from helpers.reporting.console.console import Console
from helpers.reporting.console.displays import PlainDisplay
from helpers.reporting.events import Event, RunFailed


class TimedDisplay(PlainDisplay):
    """Plain lines that each begin with the time."""

    def __init__(self, stream: TextIO, *, now: Callable[[], datetime] = datetime.now) -> None:
        super().__init__(stream)
        self._now = now

    def line(self, text: str, *, warning: bool = False) -> None:
        time = f"{self._now():%Y-%m-%d %H:%M:%S} "
        super().line("\n".join(time + line for line in (f"warning: {text}" if warning else text).splitlines()))


class LogFile:
    """A listener that writes what the console shows, at every log level, and all log messages."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = path.open("a", encoding="utf-8", errors="backslashreplace")
        self._display = TimedDisplay(self._stream)
        self._console = Console(self._display)
        send_log_to(_ToDisplay(self._display))

    def handle(self, event: Event) -> None:
        if isinstance(event, RunFailed):
            self._display.line(f"failed: {event.message}")
            self._display.line(event.traceback)
        else:
            self._console.handle(event)

    def close(self) -> None:
        send_log_to(None)
        self._stream.close()


class _ToDisplay(logging.Handler):
    """Sends log messages to a display."""

    def __init__(self, display: TimedDisplay) -> None:
        super().__init__()
        self._display = display

    def emit(self, record: logging.LogRecord) -> None:
        self._display.line(record.getMessage(), warning=record.levelno >= logging.WARNING)
