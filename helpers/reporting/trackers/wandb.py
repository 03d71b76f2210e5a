"""Weights & Biases: figures, images with captions and settings, online, or offline as WANDB_MODE says."""

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
"""How long wandb may look for its server; a run that ends meanwhile is held up by the rest of it."""


class WandbTracker:
    """A listener that keeps a run in wandb; a resumed run is joined to the one it continues."""

    def __init__(self, folder: Path, *, project: str, name: str) -> None:
        """Files go to `folder`. Raises ReportingError where wandb is asked to send and nobody has logged in."""
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
                self._tracked = self._record.note(self._tracked, told=event.step)
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
        """Let wandb send what it has, and end its helper process."""
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
            # The console is ours, and a repository's address may hold a password.
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, disable_code=True, init_timeout=INIT_SECONDS
            ),
        )
        # Online, what the server has already: steps that are taken again give the same figures, and need no telling.
        # Offline nobody knows how much of a killed run is on the disk; there they are told again.
        self._first = self._run.step
        self._run.config.update(config_of(event), allow_val_change=True)
        logger.info(f"wandb: {self._run.dir if self._run.offline else self._run.url}")

    def _show(self, event: ValidationImagesSaved) -> None:
        import wandb

        captions = event.captions or ("",) * len(event.paths)
        images = [wandb.Image(str(path), caption=caption) for path, caption in zip(event.paths, captions, strict=True)]
        # Those of a step that the server has already come in beside the first step after it.
        self._run.log({"validation": images}, step=max(event.step, self._first))


def config_of(event: RunStarted) -> dict[str, Any]:
    """What is kept as the run's configuration: the settings by group, and what they were applied to."""
    about = {
        "base_model": event.base_model,
        "trained_numbers": event.trainable_parameters,
        "datasets": dict(event.datasets),
        "total_steps": event.total_steps,
    }
    return {**{group: dict(settings) for group, settings in event.settings.items()}, "about": about}


def _check_login() -> None:
    """Raises ReportingError where wandb could not send anything, which would otherwise show after hours of caching."""
    import wandb

    settings = wandb.setup().settings
    if settings.mode in (None, "online", "shared") and not wandb.login(prompt=False, verify=False):
        wandb.teardown()
        raise ReportingError(
            "report_to = wandb: nobody has logged in to wandb on this machine. Say `wandb login` once, or set"
            " WANDB_MODE=offline to keep the run here and send it later with `wandb sync`, or leave wandb out of"
            " report_to."
        )
