"""The console: progress, metrics and results of a run, on a terminal or in a log."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from helpers.reporting.console.displays import Display, PlainDisplay, WarningsOnly
from helpers.reporting.events import (
    CheckpointSaved,
    Event,
    MemoryUse,
    MetricsMeasured,
    Notice,
    RunFinished,
    StageAdvanced,
    StageFinished,
    StageStarted,
    StepFinished,
    TrainingStarted,
    ValidationImagesSaved,
)
from helpers.reporting.format import (
    format_amount,
    format_bytes,
    format_count,
    format_duration,
    format_number,
    format_rate,
)
from helpers.reporting.metrics_text import metrics_text
from helpers.reporting.pace import RunningMean, Throughput

PATHS_NAMED = 3
WARNINGS_REPEATED = 20


def display_for(stream: TextIO, *, level: str = "info") -> Display:
    """Live bars on a terminal, plain lines elsewhere; characters that the stream cannot show are escaped.

    level: `warning` shows only warnings, `error` nothing.
    """
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    if level in ("warning", "error"):
        return WarningsOnly(PlainDisplay(stream), nothing=level == "error")
    if not stream.isatty():
        return PlainDisplay(stream)
    from helpers.reporting.console.live import LiveDisplay

    return LiveDisplay(stream)


class Console:
    """A listener that shows everything on `display`, with throughput and time left."""

    def __init__(self, display: Display, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._display = display
        self._clock = clock
        self._stage: _Stage | None = None
        self._training: _Training | None = None
        self._warnings: dict[str, None] = {}

    def handle(self, event: Event) -> None:
        """Show an event; raises OSError or ValueError if the stream is closed."""
        match event:
            case Notice():
                self._note(event)
            case StageStarted() | StageAdvanced() | StageFinished():
                self._handle_stage(event)
            case TrainingStarted():
                self._training = _Training(event, display=self._display, clock=self._clock)
            case StepFinished():
                assert self._training is not None, "training starts before its first step"
                self._training.step(event)
            case ValidationImagesSaved():
                of_what = f"at step {event.step:,}" if event.step else "of the base model"
                self._display.line(f"images {of_what}: {_named(event.paths)}")
            case MetricsMeasured():
                self._display.line(f"{event.evaluator} at step {event.step:,}: {metrics_text(event)}")
            case CheckpointSaved():
                self._display.line(f"checkpoint at step {event.step:,}: {event.path}")
            case RunFinished():
                self._finish(event)

    def close(self) -> None:
        """Remove the bars; nothing is shown afterwards."""
        self._display.close()

    def _note(self, event: Notice) -> None:
        is_warning = event.level == "warning"
        if is_warning:
            self._warnings[event.text] = None
        self._display.line(event.text, warning=is_warning)

    def _handle_stage(self, event: StageStarted | StageAdvanced | StageFinished) -> None:
        match event:
            case StageStarted():
                self._drop_stage()
                self._stage = _Stage(event, display=self._display, clock=self._clock)
            case StageAdvanced():
                assert self._stage is not None, "a stage starts before it advances"
                self._stage.advance(event.count)
            case StageFinished():
                assert self._stage is not None, "a stage starts before it finishes"
                self._stage.finish(event)
                self._stage = None
                if self._training is not None:
                    self._training.note_memory(_memory_of(event))

    def _drop_stage(self) -> None:
        """Remove the bar of a stage that did not finish."""
        if self._stage is not None:
            self._stage.bar.end()
            self._stage = None

    def _finish(self, event: RunFinished) -> None:
        self._drop_stage()
        how = "stopped" if event.interrupted else "finished"
        summary = [f"{how} after step {event.step:,}", f"in {format_duration(event.seconds)}"]
        if self._training is not None:
            self._training.bar.end()
            summary += self._training.summary()
        self._display.line(", ".join(summary))
        self._list("written:", [str(path) for path in event.written])
        repeated = [*self._warnings][:WARNINGS_REPEATED]
        more = len(self._warnings) - len(repeated)
        self._list("warnings of this run:", [*repeated, *([f"and {more:,} more"] if more else [])])
        if event.next_step:
            self._display.line(f"next: {event.next_step}")
        if event.interrupted:
            self._display.line(f"to continue after step {event.step:,}, run the same command again")

    def _list(self, heading: str, lines: list[str]) -> None:
        if lines:
            self._display.line("\n".join([heading, *(f"  {line}" for line in lines)]))


class _Stage:
    """A stage in progress."""

    def __init__(self, event: StageStarted, *, display: Display, clock: Callable[[], float]) -> None:
        self._event, self._display, self._clock = event, display, clock
        self._shown = clock()
        self._pace = Throughput(total=event.total, done=0, now=self._shown)
        self.bar = display.bar(event.name, total=event.total)
        self.bar.show(format_count(event.total, event.unit) if event.total else "started", done=0)

    def advance(self, count: int) -> None:
        now = self._clock()
        self._pace.update(self._pace.done + count, now=now)
        if now - self._shown >= self._display.seconds_between:
            self._shown = now
            done = format_amount(self._pace.done, self._pace.total, self._event.unit)
            self.bar.show(f"{done}{_speed(self._pace, self._event.unit)}", done=self._pace.done)

    def finish(self, event: StageFinished) -> None:
        self.bar.end()
        what = format_count(self._pace.done, self._event.unit) if self._pace.done else "done"
        speed = format_rate(self._pace.overall_per_second(event.seconds), self._event.unit)
        rate = f" ({speed})" if self._pace.done > 1 else ""
        memory = _peak(_memory_of(event))
        self._display.line(f"{event.name}: {what} in {format_duration(event.seconds)}{rate}, peak memory {memory}")


class _Training:
    """The training loop in progress."""

    def __init__(self, event: TrainingStarted, *, display: Display, clock: Callable[[], float]) -> None:
        self._event, self._display, self._clock = event, display, clock
        self._shown: float | None = None
        self._loss = RunningMean()
        self._memory = MemoryUse()
        self._began = clock()
        self._pace = Throughput(total=event.total_steps, done=event.first_step, now=self._began)
        images = "1 image" if event.images_per_step == 1 else f"{event.images_per_step:,} images"
        display.line(
            f"training: {event.total_steps:,} steps of {images}, {format_number(event.steps_per_epoch)} an epoch"
        )
        if event.first_step:
            display.line(f"training: continues after step {event.first_step:,}")
        self.bar = display.bar("training", total=event.total_steps)

    def step(self, event: StepFinished) -> None:
        now = self._clock()
        self._loss.add(event.loss)
        self.note_memory(event.memory)
        self._pace.update(event.step, now=now)
        is_last = event.step == self._event.total_steps
        if self._shown is None or is_last or now - self._shown >= self._display.seconds_between:
            self._shown = now
            self.bar.show(self._describe(event), done=event.step)

    def _describe(self, event: StepFinished) -> str:
        images = format_rate(self._pace.per_second() * self._event.images_per_step, "images")
        left = self._pace.seconds_left()
        parts = [
            f"step {event.step:,} of {self._event.total_steps:,}",
            f"epoch {event.epoch + 1:,}",
            f"mean loss {self._loss.value:.4f}",
            f"learning rate {format_number(event.learning_rate)}",
            *([] if left is None else [images, f"{format_duration(left)} left"]),
            self._peak(),
        ]
        return ", ".join(parts)

    def summary(self) -> list[str]:
        """Throughput, mean loss and peak memory of all steps; empty if there was none."""
        if self._pace.done == self._event.first_step:
            return []
        speed = self._pace.overall_per_second(self._clock() - self._began) * self._event.images_per_step
        return [format_rate(speed, "images"), f"mean loss {self._loss.value:.4f}", self._peak()]

    def note_memory(self, memory: MemoryUse) -> None:
        """Record the peak memory of training, or of a stage within it."""
        before = self._memory
        self._memory = MemoryUse(
            peak_bytes=max(before.peak_bytes, memory.peak_bytes),
            peak_device_bytes=max(before.peak_device_bytes, memory.peak_device_bytes),
            peak_reserved_bytes=max(before.peak_reserved_bytes, memory.peak_reserved_bytes),
        )

    def _peak(self) -> str:
        """The peak memory since training began, including its stages."""
        return f"peak memory {_peak(self._memory)}"


def _speed(pace: Throughput, unit: str) -> str:
    """`, 20.1 images/s, 6 s left`, as far as known."""
    left = pace.seconds_left()
    speed = pace.per_second()
    rate = f", {format_rate(speed, unit)}" if speed else ""
    return rate if left is None else f"{rate}, {format_duration(left)} left"


def _memory_of(event: StageFinished) -> MemoryUse:
    return MemoryUse(
        peak_bytes=event.peak_memory_bytes,
        peak_device_bytes=event.peak_device_memory_bytes,
        peak_reserved_bytes=event.peak_reserved_memory_bytes,
    )


def _peak(memory: MemoryUse) -> str:
    """`1.2 GB`, or `1.2 GB, peak VRAM 8.3 GB (9.1 GB reserved)`."""
    reserved = f" ({format_bytes(memory.peak_reserved_bytes)} reserved)" if memory.peak_reserved_bytes else ""
    device = f", peak VRAM {format_bytes(memory.peak_device_bytes)}{reserved}" if memory.peak_device_bytes else ""
    return f"{format_bytes(memory.peak_bytes)}{device}"


def _named(paths: tuple[Path, ...]) -> str:
    """The first few paths, and how many more there are."""
    shown = ", ".join(str(path) for path in paths[:PATHS_NAMED])
    return shown if len(paths) <= PATHS_NAMED else f"{shown} and {len(paths) - PATHS_NAMED:,} more"
