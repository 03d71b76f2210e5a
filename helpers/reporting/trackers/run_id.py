"""Which tracked run this run belongs to, so that a resumed run continues the one it resumes."""

import json
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from helpers.files import atomic_write_text
from helpers.reporting.events import RunStarted


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run as a tracker knows it. last_step: the last optimizer step reported to it."""

    id: str
    name: str
    last_step: int = 0


class RunRecord:
    """A small JSON file that stores the tracked run of an output folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, event: RunStarted, *, name: str) -> TrackedRun:
        """The stored run if `event` resumes it, else a new one called `name`.

        Steps that are repeated give the same metrics, unless settings have changed: then a new run begins.
        """
        known = self._read()
        repeats = known is not None and event.first_step < known.last_step
        if known is None or not event.first_step or (repeats and event.changes):
            known = TrackedRun(id=secrets.token_hex(4), name=name)
        self._write(known)
        return known

    def note(self, run: TrackedRun, *, last_step: int) -> TrackedRun:
        """Store that step `last_step` was reported to `run`."""
        run = replace(run, last_step=last_step)
        self._write(run)
        return run

    def _read(self) -> TrackedRun | None:
        try:
            fields = json.loads(self._path.read_text(encoding="utf-8"))
            if "told" in fields:  # as written before December 2026
                fields["last_step"] = fields.pop("told")
            return TrackedRun(**fields)
        except (OSError, ValueError, TypeError):
            return None

    def _write(self, run: TrackedRun) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self._path, json.dumps(asdict(run)) + "\n")
