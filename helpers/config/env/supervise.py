"""Runs accelerate's launcher for runs with several processes.

The launcher itself gives processes 30 seconds to end, too little to write a large checkpoint, and prints a traceback
of its own below the error that ended the run. This forwards signals and waits; its exit status is that of the first
process that failed.
"""

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

from helpers.errors import Problem

LAUNCHER = "accelerate.commands.launch"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_STATUS_OF_SIGNAL = 128


def main() -> int:
    """Run the launcher; the exit status: 0, or that of the process which failed first."""
    os.environ["PET_SIGNALS_TO_HANDLE"] = "SIGHUP,SIGQUIT"  # the others are handled here
    os.environ.setdefault("LOGLEVEL", "CRITICAL")  # of the launcher's own lines
    for number in SIGNALS:
        signal.signal(number, forward_signal)
    sys.argv[0] = LAUNCHER
    try:
        runpy.run_module(LAUNCHER, run_name="__main__", alter_sys=True)
    except Exception as error:
        if failures := getattr(error, "failures", None):
            return exit_status(failures)
        if isinstance(error, subprocess.CalledProcessError):  # of one process, which has reported its error
            return error.returncode if error.returncode > 0 else EXIT_STATUS_OF_SIGNAL - error.returncode
        reason = f"accelerate cannot start the run: {error}"
        fix = "change ACCELERATE_EXTRA_ARGS, or the file that it names"
        words = " ".join(word for word in sys.argv[1:] if word.startswith("--config_file"))
        sys.stderr.write(f"{Problem(option='ACCELERATE_EXTRA_ARGS', value=words, reason=reason, fix=fix)}\n")
        return 1
    return 0


def forward_signal(signal_number: int, frame: FrameType | None) -> None:
    """Forward a signal to every process of the run on this machine; each leads a process group."""
    for process in children():
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process, signal_number)


def children() -> Iterator[int]:
    """The ids of this process's children, on Linux; elsewhere a run has one process."""
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            _, parent = file.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid():
                yield int(file.parent.name)


def exit_status(failures: dict[int, Any]) -> int:
    """The exit status of the process that failed first; the launcher ended the others after it."""
    first = min(failures.values(), key=lambda failure: (failure.exitcode < 0, failure.timestamp))
    return first.exitcode if first.exitcode > 0 else EXIT_STATUS_OF_SIGNAL - first.exitcode


if __name__ == "__main__":
    raise SystemExit(main())
