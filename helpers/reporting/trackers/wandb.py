"""Weights & Biases: metrics, images with captions, and settings; online, or offline if WANDB_MODE says so."""

import logging
from pathlib import Path
from typing import Any

from helpers.errors import ReportingError
from helpers.reporting.events import (
    Event,
    MetricsMeasured,
    RunFailed,
    RunFinished,
    RunStarted,
    StepFinished,
    ValidationImagesSaved,
)
from helpers.reporting.trackers.metrics import step_metrics
from helpers.reporting.trackers.run_id import RunRecord, TrackedRun

logger = logging.getLogger(__name__)

INIT_SECONDS = 30.0
"""How long wandb may look for its server; a run that ends before that waits for the rest of it."""


class WandbTracker:
    """A listener that logs to wandb; a resumed run continues the wandb run that it resumes."""

    def __init__(self, folder: Path, *, project: str, name: str) -> None:
        """Files go to `folder`. Raises ReportingError if wandb is online and this machine is not logged in."""
        self._folder, self._project, self._name = folder, project, name
        self._record = RunRecord(folder / "wandb-run.json")
        self._tracked: TrackedRun | None = None
        self._first = 0
        self._run: Any = None
        self._exit_code = 1
        _check_login()

    def handle(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._begin(event)
            case StepFinished() if self._run is not None and event.step >= self._first:
                assert self._tracked is not None, "a run that has begun is tracked"
                self._run.log(step_metrics(event), step=event.step)
                self._tracked = self._record.note(self._tracked, last_step=event.step)
            case MetricsMeasured() if self._run is not None and event.step >= self._first:
                self._run.log(dict(event.metrics), step=event.step)
            case ValidationImagesSaved() if self._run is not None:
                self._show(event)
            case RunFinished():
                self._exit_code = 0
            case RunFailed():
                self._exit_code = 1
            case _:
                pass

    def close(self) -> None:
        """Let wandb send the rest, and end its helper process."""
        import wandb

        if self._run is not None:
            self._run.finish(exit_code=self._exit_code)
        wandb.teardown(exit_code=self._exit_code)

    def _begin(self, event: RunStarted) -> None:
        import wandb

        self._tracked = self._record.begin(event, name=self._name)
        self._run = wandb.init(
            project=self._project,
            id=self._tracked.id,
            name=self._tracked.name,
            dir=self._folder,
            resume="allow",
            # The console output is ours, and a git repository's URL may contain a password.
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, init_timeout=INIT_SECONDS
            ),
        )
        # Online, the server knows the last step: repeated steps give the same metrics and are not logged again. Offline
        # it is unknown how much of a killed run is on disk, so they are.
        self._first = self._run.step
        self._run.config.update(config_of(event), allow_val_change=True)
        logger.info(f"wandb: {self._run.dir if self._run.offline else self._run.url}")

    def _show(self, event: ValidationImagesSaved) -> None:
        import wandb

        captions = event.captions or ("",) * len(event.paths)
        images = [wandb.Image(str(path), caption=caption) for path, caption in zip(event.paths, captions, strict=True)]
        # Images of a step that the server has already are logged with the first step after it.
        self._run.log({"validation": images}, step=max(event.step, self._first))


def config_of(event: RunStarted) -> dict[str, Any]:
    """The run's configuration for wandb: the settings by group, and what was trained on what."""
    about = {
        "base_model": event.base_model,
        "trainable_parameters": event.trainable_parameters,
        "datasets": dict(event.datasets),
        "total_steps": event.total_steps,
    }
    return {**{group: dict(settings) for group, settings in event.settings.items()}, "about": about}


def _check_login() -> None:
    """Raises ReportingError if wandb could send nothing, which would otherwise only show after hours of caching."""
    import wandb

    settings = wandb.setup().settings
    if settings.mode in (None, "online", "shared") and not wandb.login(prompt=False, verify=False):
        wandb.teardown()
        raise ReportingError(
            "report_to = wandb: this machine is not logged in to wandb. Run `wandb login` once, or set"
            " WANDB_MODE=offline to keep the run here and upload it later with `wandb sync`, or remove wandb from"
            " report_to."
        )
