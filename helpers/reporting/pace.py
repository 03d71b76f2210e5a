"""How fast work goes just now and when it will be done; old speeds are forgotten, as images and machines vary."""

from collections import deque

WINDOW_SECONDS = 30.0
MARKS = 30
SMOOTHING = 0.98


class Throughput:
    """Counts units done; times are the caller's, in seconds of any one clock."""

    def __init__(self, *, total: int, done: int, now: float) -> None:
        self.total = total
        self.done = done
        self._first = done
        self._now = now
        self._marks = deque([(now, done)])

    def update(self, done: int, *, now: float) -> None:
        """`done` units in all are done."""
        if now - self._marks[-1][0] >= WINDOW_SECONDS / MARKS:
            self._marks.append((now, done))
            while len(self._marks) > 2 and now - self._marks[1][0] >= WINDOW_SECONDS:
                self._marks.popleft()
        self.done, self._now = done, now

    def per_second(self) -> float:
        """Units a second over the last half minute or the last two marks; 0 where nothing can be said yet."""
        then, before = self._marks[0]
        return (self.done - before) / (self._now - then) if self._now > then else 0.0

    def seconds_left(self) -> float | None:
        """Seconds until all are done; None where the total or the speed is not known."""
        speed = self.per_second()
        return (self.total - self.done) / speed if self.total and speed else None

    def overall_per_second(self, seconds: float) -> float:
        """Units a second of work that took `seconds`."""
        return (self.done - self._first) / max(seconds, 1e-9)


class RunningMean:
    """A running mean in which a value weighs 2 % less with each later one, and the first counts fully at first."""

    def __init__(self) -> None:
        self._sum = 0.0
        self._weight = 0.0

    def add(self, value: float) -> None:
        self._sum = SMOOTHING * self._sum + value
        self._weight = SMOOTHING * self._weight + 1

    @property
    def value(self) -> float:
        return self._sum / self._weight
