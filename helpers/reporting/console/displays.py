"""Displays for the console: plain lines for a log, or only warnings; `live.py` has the bars of a terminal."""

import math
from typing import Protocol, TextIO


class Bar(Protocol):
    """The progress bar of one piece of work."""

    def show(self, text: str, *, done: int) -> None:
        """Show the progress: `done` units, described by `text`."""
        ...

    def end(self) -> None:
        """Remove the bar, whether the work finished or not."""
        ...


class Display(Protocol):
    """Shows lines and bars; `seconds_between` is the shortest time between two updates of a bar."""

    seconds_between: float

    def line(self, text: str, *, warning: bool = False) -> None: ...

    def bar(self, name: str, *, total: int) -> Bar:
        """Start a bar of `total` units; 0 if the total is not known."""
        ...

    def close(self) -> None: ...


class PlainDisplay:
    """Plain lines, for a file, a pipe or a log."""

    def __init__(self, stream: TextIO, *, seconds_between: float = 10.0) -> None:
        self._stream = stream
        self.seconds_between = seconds_between

    def line(self, text: str, *, warning: bool = False) -> None:
        self._stream.write(f"warning: {text}\n" if warning else f"{text}\n")
        self._stream.flush()

    def bar(self, name: str, *, total: int) -> Bar:
        return _PlainBar(self, name)

    def close(self) -> None:
        """Nothing to do: every line is written at once."""


class _PlainBar:
    def __init__(self, display: PlainDisplay, name: str) -> None:
        self._display, self._name = display, name

    def show(self, text: str, *, done: int) -> None:
        self._display.line(f"{self._name}: {text}")

    def end(self) -> None:
        """Nothing to do: a line stays."""


class WarningsOnly:
    """Shows only the warnings of another display, or nothing at all."""

    def __init__(self, display: PlainDisplay, *, nothing: bool) -> None:
        self._display, self._nothing = display, nothing
        self.seconds_between = math.inf

    def line(self, text: str, *, warning: bool = False) -> None:
        if warning and not self._nothing:
            self._display.line(text, warning=True)

    def bar(self, name: str, *, total: int) -> Bar:
        return _NoBar()

    def close(self) -> None:
        self._display.close()


class _NoBar:
    def show(self, text: str, *, done: int) -> None:
        """Nothing to do."""

    def end(self) -> None:
        """Nothing to do."""
