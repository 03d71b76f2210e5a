"""Throughput and time left, from the last half minute only, because images and machines vary."""

from collections import deque

WINDOW_SECONDS = 30.0
MARKS = 30
SMOOTHING = 0.98


class Throughput:
    """Counts finished units; the caller passes times in seconds, all from the same clock."""

    def __init__(self, *, total: int, done: int, now: float) -> None:
        self.total = total
        self.done = done
        self._first = done
        self._now = now
        self._marks = deque([(now, done)])

    def update(self, done: int, *, now: float) -> None:
        """Record that `done` units in total are finished at `now`."""
        if now - self._marks[-1][0] >= WINDOW_SECONDS / MARKS:
            self._marks.append((now, done))
            while len(self._marks) > 2 and now - self._marks[1][0] >= WINDOW_SECONDS:
                self._marks.popleft()
        self.done, self._now = done, now

    def per_second(self) -> float:
        """Units per second over the last half minute, or between the last two marks; 0 if not known yet."""
        then, before = self._marks[0]
        return (self.done - before) / (self._now - then) if self._now > then else 0.0

    def seconds_left(self) -> float | None:
        """Seconds until all units are done; None if the total or the speed is not known."""
        speed = self.per_second()
        return (self.total - self.done) / speed if self.total and speed else None

    def overall_per_second(self, seconds: float) -> float:
        """Average units per second if all the work took `seconds`."""
        return (self.done - self._first) / max(seconds, 1e-9)


class RunningMean:
    """An exponential moving average with bias correction; each value lowers the weight of earlier ones by 2 %."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._weight = 0.0

    def add(self, value: float) -> None:
        self._sum = SMOOTHING * self._sum + value
        self._weight = SMOOTHING * self._weight + 1

    @property
    def value(self) -> float:
        return self._sum / self._weight
