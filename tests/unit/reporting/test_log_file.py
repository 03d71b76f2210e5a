"""The log file holds every line with its time: of events, of loggers, from before it was opened; and no secret."""

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.log import set_level, set_up_logging
from helpers.reporting.console.log_file import LogFile
from helpers.reporting.events import Notice, RunFailed
from helpers.reporting.reporter import Reporter

SECRET = "ThisIsTheSecretToken"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    set_up_logging()
    yield
    root.handlers[:], root.level = handlers, level


def test_every_line_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("helpers.config").warning("LEARNING_RATE=1 is very large")
    reporter = Reporter()
    set_level("error", secrets=[SECRET])
    reporter.redact_secrets([SECRET])
    reporter.add(lambda: LogFile(tmp_path / "logs" / "a.log"))
    reporter.handle(Notice(text="3 images were left out", level="warning"))
    logging.getLogger("helpers.training").info(f"careful with {SECRET}")
    logging.getLogger("httpx").info(f"POST https://host/{SECRET}")
    reporter.handle(RunFailed(message=f"at {SECRET}", traceback=f"Traceback:\n  line 3\nOSError: {SECRET}"))
    reporter.close()
    logging.getLogger("helpers").warning("after the end")
    lines = (tmp_path / "logs" / "a.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert [line[20:] for line in lines] == [
        "warning: LEARNING_RATE=1 is very large",
        "warning: 3 images were left out",
        "careful with (hidden)",
        "failed: at (hidden)",
        "Traceback:",
        "  line 3",
        "OSError: (hidden)",
    ]
    assert capsys.readouterr().err.splitlines() == ["LEARNING_RATE=1 is very large"], "the console shows errors only"


def test_debug_shows_what_libraries_say(capsys: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("peft").info("before")
    set_level("debug", secrets=[])
    logging.getLogger("peft").info("loading the adapter")
    assert capsys.readouterr().err.splitlines() == ["loading the adapter"]


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").touch()
    reporter = Reporter()
    reporter.add(lambda: LogFile(tmp_path / "logs" / "a.log"))
    reporter.handle(Notice(text="on we go"))
    reporter.close()
    assert "a listener could not start" in capsys.readouterr().err
