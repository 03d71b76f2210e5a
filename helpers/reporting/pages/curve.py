"""Keeps a run's figures in few points, so that a page of a million steps costs what one of a thousand does."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

POINTS = 1000


@dataclass(frozen=True, kw_only=True)
class Point:
    """Means over optimizer steps `first` to `last`, by name, each with the number of steps that had it."""

    first: int
    last: int
    means: Mapping[str, tuple[float, int]]

    def merged(self, later: "Point") -> "Point":
        """Both in one; figures that only one of them has stay as they are."""
        means = dict(self.means)
        for name, (value, steps) in later.means.items():
            before, weight = means.get(name, (0.0, 0))
            means[name] = (before + (value - before) * steps / (weight + steps), weight + steps)
        return Point(first=self.first, last=later.last, means=means)


class Curve:
    """Points in order, at most `limit`: where there would be more, each two neighbors become one."""

    def __init__(self, limit: int = POINTS) -> None:
        self.points: list[Point] = []
        self._limit, self._width = limit, 1

    def add(self, point: Point) -> None:
        """Later steps than all before; costs the same however many there were, in the long run."""
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
        """Whether the two are so near that they are one point here."""
        return (earlier.first - 1) // self._width == (later.first - 1) // self._width

    def cut(self, step: int) -> None:
        """Forget the steps after `step`."""
        kept = [point for point in self.points if point.first <= step]
        if kept and kept[-1].last > step:
            kept[-1] = replace(kept[-1], last=step)
        self.points = kept
