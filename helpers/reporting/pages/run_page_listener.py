"""Writes run.html during the run, from a history file that covers all starts of the run."""

import time
from collections.abc import Callable
from pathlib import Path

from helpers.config.option import written
from helpers.files import atomic_write_text
from helpers.reporting.events import (
    CheckpointSaved,
    Event,
    MetricsMeasured,
    Notice,
    RunFailed,
    RunFinished,
    RunStarted,
    StageFinished,
    StageStarted,
    StepFinished,
    ValidationImagesSaved,
)
from helpers.reporting.pace import Throughput
from helpers.reporting.pages.run_history import End, HistoryFile, Measured, Point, Saved, SavedImage, Start, Warned
from helpers.reporting.pages.run_page import Moment, run_page
from helpers.reporting.pages.run_page_images import SmallImages
from helpers.reporting.trackers.metrics import step_metrics

PAGE = "run.html"
HISTORY = Path("logs", "history.jsonl")
REFRESH_SECONDS = 30.0
WITHOUT_CHART = ("train/epoch", "train/mean_sigma", "speed/seconds_per_step")


class RunPage:
    """Writes `OUTPUT_DIR/run.html`: after steps at most every `refresh_seconds`, after other events at once.

    clean: removes secrets from a text. Warnings from before the run's start are shown once it starts.
    """

    name = "the run page"

    def __init__(
        self, output_dir: Path, *, clean: Callable[[str], str], refresh_seconds: float = REFRESH_SECONDS
    ) -> None:
        self._folder, self._clean, self._refresh_seconds = output_dir, clean, refresh_seconds
        self._file: HistoryFile | None = None
        self._pace = Throughput(total=0, done=0, now=0.0)
        self._early: list[str] = []
        self._epoch, self._doing = 0, ""
        self._small = SmallImages(output_dir)
        self._refreshed = 0.0
        self._ended = False

    def handle(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._begin(event)
        elif isinstance(event, Notice) and event.level == "warning" and self._file is None:
            self._early.append(event.text)
        elif self._file is not None:
            self._record(event, file=self._file)

    def close(self) -> None:
        """Show a run that has not ended as interrupted."""
        if self._file is not None and not self._ended:
            self._end(self._file, how="interrupted")
        if self._file is not None:
            self._file.close()

    def _begin(self, event: RunStarted) -> None:
        self._file = HistoryFile(self._folder / HISTORY)
        self._pace = Throughput(total=event.total_steps, done=event.first_step, now=time.monotonic())
        self._file.append(
            Start(
                at=time.time(),
                first_step=event.first_step,
                total_steps=event.total_steps,
                base_model=event.base_model,
                model_type=event.model_type,
                trainable_parameters=event.trainable_parameters,
                settings={
                    group: {name: self._clean(written(value)) for name, value in values.items()}
                    for group, values in event.settings.items()
                },
                datasets=event.datasets,
                changes=[tuple(map(self._clean, (each.name, each.before, each.now))) for each in event.changes],
            )
        )
        for text in self._early:
            self._file.append(Warned(step=event.first_step, text=text))
        self._refresh(self._file)

    def _record(self, event: Event, *, file: HistoryFile) -> None:
        step = file.history.step
        match event:
            case StepFinished():
                self._step(event, file=file)
                return
            case StageStarted() | StageFinished():
                self._doing = event.name if isinstance(event, StageStarted) else ""
                return
            case RunFinished():
                self._end(file, how="interrupted" if event.interrupted else "finished")
                return
            case RunFailed():
                self._end(file, how="failed", message=event.message)
                return
            case ValidationImagesSaved():
                self._images(event, file=file)
            case MetricsMeasured():
                file.append(Measured(step=event.step, evaluator=event.evaluator, metrics=dict(event.metrics)))
            case CheckpointSaved():
                file.append(Saved(step=event.step))
            case Notice(level="warning"):
                file.append(Warned(step=step, text=event.text))
            case _:
                return
        self._refresh(file)

    def _step(self, event: StepFinished, *, file: HistoryFile) -> None:
        now = time.monotonic()
        self._pace.update(event.step, now=now)
        self._epoch = event.epoch
        means = {name: (value, 1) for name, value in step_metrics(event).items() if name not in WITHOUT_CHART}
        file.append(Point(first=event.step, last=event.step, means=means))
        if now - self._refreshed >= self._refresh_seconds:
            self._refresh(file)

    def _images(self, event: ValidationImagesSaved, *, file: HistoryFile) -> None:
        captions = event.captions or ("",) * len(event.paths)
        for path, caption in zip(event.paths, captions, strict=True):
            name = path.relative_to(self._folder).as_posix()
            image = SavedImage(step=event.step, file=name, caption=self._clean(caption))
            self._small.forget(image.step, image.file)
            file.append(image)

    def _end(self, file: HistoryFile, *, how: str, message: str = "") -> None:
        if not self._ended:
            self._ended = True
            file.append(End(at=time.time(), step=file.history.step, how=how, message=message))
            self._refresh(file)

    def _refresh(self, file: HistoryFile) -> None:
        file.flush()
        moment = Moment(
            name=self._folder.resolve().name,
            written=time.time(),
            epoch=self._epoch,
            doing=self._doing,
            seconds_left=self._pace.seconds_left(),
            reload_seconds=self._refresh_seconds,
        )
        atomic_write_text(self._folder / PAGE, self._clean(run_page(file.history, moment=moment, small=self._small)))
        self._refreshed = time.monotonic()
