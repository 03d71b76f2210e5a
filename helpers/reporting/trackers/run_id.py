"""Which run of a tracker this one belongs to, so that a resumed run goes on in the place where it left off."""

import json
import secrets
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from helpers.files import atomic_write_text
from helpers.reporting.events import RunStarted


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run as a tracker knows it. told: the last optimizer step that it was told of."""

    id: str
    name: str
    told: int = 0


class RunRecord:
    """A small file that remembers the tracked run of an output folder."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, event: RunStarted, *, name: str) -> TrackedRun:
        """The run to go on with where `event` continues one that is known, else a new one called `name`.

        Steps that are taken again give the same figures, unless settings have changed: then it is another run.
        """
        known = self._read()
        repeats = known is not None and event.first_step < known.told
        if known is None or not event.first_step or (repeats and event.changes):
            known = TrackedRun(id=secrets.token_hex(4), name=name)
        self._write(known)
        return known

    def note(self, run: TrackedRun, *, told: int) -> TrackedRun:
        """Remember that `run` was told of step `told`."""
        run = replace(run, told=told)
        self._write(run)
        return run

    def _read(self) -> TrackedRun | None:
        try:
            return TrackedRun(**json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _write(self, run: TrackedRun) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(self._path, json.dumps(asdict(run)) + "\n")
