"""Stands between `train.sh` and accelerate's launcher where a run has several processes.

The launcher by itself gives processes that were asked to end 30 seconds, in which a large checkpoint is not written,
and ends with a traceback of its own below the error that ended the run. This passes signals on and waits; its exit
status is that of the first process that failed.
"""

import os
import runpy
import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

LAUNCHER = "accelerate.commands.launch"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_STATUS_OF_SIGNAL = 128


def main() -> int:
    """Launch what the words say; the exit status: 0, or that of the process which failed first."""
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"  # the others are heard here
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # of the launcher's own lines
    for number in SIGNALS:
        signal.signal(number, pass_on)
    sys.argv[0] = LAUNCHER
    try:
        runpy.run_module(LAUNCHER, run_name="__main__", alter_sys=True)
    except Exception as error:
        failures = getattr(error, "failures", None)
        if not failures:
            raise
        return status_of(failures)
    return 0


def pass_on(signal_number: int, frame: FrameType | None) -> None:
    """Hand a signal to every process of the run on this machine, each of which leads a group of its own."""
    import psutil

    for process in psutil.Process().children():
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal_number)


def status_of(failures: dict[int, Any]) -> int:
    """The exit status of the process that failed first; what the launcher ended itself came after it."""
    first = min(failures.values(), key=lambda failure: (failure.exitcode < 0, failure.timestamp))
    return first.exitcode if first.exitcode > 0 else EXIT_STATUS_OF_SIGNAL - first.exitcode


if __name__ == "__main__":
    raise SystemExit(main())
