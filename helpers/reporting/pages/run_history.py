"""The history behind run.html: an append-only file that covers all starts of a run.

Metrics are merged into a limited number of points, so the page of a million steps costs as much as that of a thousand.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

DIGITS = 6
WARNINGS = 100


POINTS = 1000


@dataclass(frozen=True, kw_only=True)
class Point:
    """Means over optimizer steps `first` to `last`, by name, each with the number of steps that had it."""

    first: int
    last: int
    means: Mapping[str, tuple[float, int]]

    def merged(self, later: "Point") -> "Point":
        """Both points as one; metrics that only one of them has stay as they are."""
        means = dict(self.means)
        for name, (value, steps) in later.means.items():
            before, weight = means.get(name, (0.0, 0))
            means[name] = (before + (value - before) * steps / (weight + steps), weight + steps)
        return Point(first=self.first, last=later.last, means=means)


class Curve:
    """Points in order, at most `limit`: beyond that, pairs of neighbors are merged."""

    def __init__(self, limit: int = POINTS) -> None:
        self.points: list[Point] = []
        self._limit, self._width = limit, 1

    def add(self, point: Point) -> None:
        """Add a point later than all others, at amortized constant cost."""
        if self.points and self.same_bin(self.points[-1], point):
            self.points[-1] = self.points[-1].merged(point)
        else:
            self.points.append(point)
        if len(self.points) > self._limit:
            self._width *= 2
            points, self.points = self.points, []
            for each in points:
                self.add(each)

    def same_bin(self, earlier: Point, later: Point) -> bool:
        """Whether the two are close enough to be merged into one point."""
        return (earlier.first - 1) // self._width == (later.first - 1) // self._width

    def truncate(self, step: int) -> None:
        """Remove the steps after `step`."""
        kept = [point for point in self.points if point.first <= step]
        if kept and kept[-1].last > step:
            kept[-1] = replace(kept[-1], last=step)
        self.points = kept


@dataclass(frozen=True, kw_only=True)
class Start:
    """The run started, or resumed after `first_step`. at: seconds since 1970. changes: name, before and now of each."""

    at: float
    first_step: int
    total_steps: int
    base_model: str
    model_type: str
    trainable_parameters: int
    settings: Mapping[str, Mapping[str, str]]
    datasets: Mapping[str, int]
    changes: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, kw_only=True)
class End:
    """A start ended. how: finished, interrupted or failed; message: why."""

    at: float
    step: int
    how: str
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class SavedImage:
    """A validation image. file: relative to the output folder."""

    step: int
    file: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What an evaluator measured, by metric name; see `MetricsMeasured`."""

    step: int
    evaluator: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A complete checkpoint was written."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Warned:
    """A warning."""

    step: int
    text: str


Record = Start | End | Point | SavedImage | Measured | Saved | Warned
KINDS: Mapping[str, type[Any]] = {
    kind.__name__: kind for kind in (Start, End, Point, SavedImage, Measured, Saved, Warned)
}


@dataclass
class History:
    """Everything known about a run.

    ends: by the index of the start. images: by step and file; measured: by evaluator and step; warnings: by text.
    """

    starts: list[Start] = field(default_factory=list)
    ends: dict[int, End] = field(default_factory=dict)
    curve: Curve = field(default_factory=Curve)
    images: dict[tuple[int, str], SavedImage] = field(default_factory=dict)
    measured: dict[str, dict[int, Measured]] = field(default_factory=dict)
    warnings: dict[str, Warned] = field(default_factory=dict)
    saved_step: int = 0

    def append(self, record: Record) -> None:
        """Add a record; repeated steps of a resumed run replace the earlier ones."""
        match record:
            case Start():
                self._begin(record)
            case End():
                self.ends[len(self.starts) - 1] = record
            case Point():
                self.curve.add(record)
            case SavedImage():
                self.images[record.step, record.file] = record
            case Measured():
                self.measured.setdefault(record.evaluator, {})[record.step] = record
            case Saved():
                self.saved_step = record.step
            case Warned():
                self.warnings.pop(record.text, None)
                self.warnings[record.text] = record
                if len(self.warnings) > WARNINGS:
                    del self.warnings[next(iter(self.warnings))]

    @property
    def step(self) -> int:
        """The last known step."""
        points = self.curve.points
        return points[-1].last if points else self.starts[-1].first_step if self.starts else 0

    def _begin(self, start: Start) -> None:
        if not start.first_step:
            self.starts, self.ends, self.warnings = [], {}, {}
        self.starts.append(start)
        self.curve.truncate(start.first_step)
        self.images = {key: each for key, each in self.images.items() if each.step <= start.first_step}
        for points in self.measured.values():
            for step in [step for step in points if step > start.first_step]:
                del points[step]
        self.saved_step = min(self.saved_step, start.first_step)


class HistoryFile:
    """The history and its file; lines that are incomplete, or of an unknown kind, are skipped."""

    def __init__(self, path: Path) -> None:
        self.history = History()
        self._pending: Point | None = None
        path.parent.mkdir(parents=True, exist_ok=True)
        known = path.read_bytes() if path.is_file() else b""
        for line in known.decode("utf-8", "replace").splitlines():
            if record := _read(line):
                self.history.append(record)
        self._stream = path.open("a", buffering=1, encoding="utf-8", errors="backslashreplace")
        if known and not known.endswith(b"\n"):
            self._stream.write("\n")

    def append(self, record: Record) -> None:
        """Add to the history and the file; points that the history merges become one line of the file."""
        if not isinstance(record, Point):
            self.flush()
            self._write(record)
        elif self._pending is not None and self.history.curve.same_bin(self._pending, record):
            self._pending = self._pending.merged(record)
        else:
            self.flush()
            self._pending = record
        self.history.append(record)

    def flush(self) -> None:
        """Write the pending point to the file."""
        if self._pending is not None:
            self._write(self._pending)
            self._pending = None

    def close(self) -> None:
        self.flush()
        self._stream.close()

    def _write(self, record: Record) -> None:
        line = {"kind": type(record).__name__, **dataclasses.asdict(record)}
        if isinstance(record, Point):
            line["means"] = {name: [float(f"{mean:.{DIGITS}g}"), steps] for name, (mean, steps) in record.means.items()}
        self._stream.write(json.dumps(line, separators=(",", ":")) + "\n")


def _read(line: str) -> Record | None:
    try:
        fields = _upgraded(json.loads(line))
        return KINDS[fields.pop("kind")](**fields)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _upgraded(fields: dict[str, Any]) -> dict[str, Any]:
    """A record as versions before December 2026 wrote it, by today's names."""
    if "trained_numbers" in fields:
        fields["trainable_parameters"] = fields.pop("trained_numbers")
    if fields["kind"] == "Drawn":
        fields["kind"] = "SavedImage"
    if fields["kind"] != "HeldOutPoint":
        return fields
    names = {"trained": "held_out/mean", "average": "held_out/ema_mean", "base": "held_out/base_mean"}
    means = {names[name]: mean for name, mean in fields["means"].items()}
    by_sigma = {f"held_out/{part}": loss for part, loss in fields.get("by_sigma", {}).items()}
    return {"kind": "Measured", "step": fields["step"], "evaluator": "validation loss", "metrics": means | by_sigma}
