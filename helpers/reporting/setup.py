"""Adds the listeners that the settings ask for; each imports its large libraries only if it is used."""

import logging
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from helpers.config.files.webhook import read_webhook
from helpers.config.options.output import PublishingOptions, ReportingOptions
from helpers.errors import ConfigError
from helpers.reporting.background import BackgroundListener
from helpers.reporting.console.console import Console, display_for
from helpers.reporting.console.log_file import LogFile
from helpers.reporting.publish.hub import Uploads
from helpers.reporting.publish.model_card import ModelCard
from helpers.reporting.reporter import Listener, Reporter

logger = logging.getLogger(__name__)

WEBHOOK_CLOSE_SECONDS = 15.0


def add_listeners(
    reporter: Reporter,
    options: ReportingOptions,
    *,
    publishing: PublishingOptions,
    output_dir: str,
    rank: int,
    started: datetime,
) -> None:
    """Add the console, log file, run page, model card, trackers, webhook and hub; ranks other than 0 log only.

    started: the time in the names of log files and of the run. Raises ReportingError if a tracker or the hub cannot
    be used, ConfigError if the webhook's file is wrong.
    """
    folder = options.folder(output_dir)
    name = f"{started:%Y-%m-%d_%H-%M-%S}"
    process = f"_process_{rank}" if rank else ""
    if rank == 0:
        reporter.add(lambda: Console(display_for(sys.stdout, level=options.log_level)))
    reporter.add(lambda: LogFile(folder / f"{name}{process}.log"))
    if rank == 0:
        _publish(reporter, publishing)
        reporter.add(lambda: _run_page(Path(output_dir).expanduser(), clean=reporter.redact))
        run_name = options.tracker_run_name or name
        if "tensorboard" in options.trackers:
            reporter.add(lambda: _tensorboard(folder, name=run_name))
        if "wandb" in options.trackers:
            reporter.add(lambda: _wandb(folder, project=options.tracker_project_name, name=run_name))
        if options.webhook_config:
            reporter.add(lambda: _webhook(Path(options.webhook_config or ""), name=run_name))


def _publish(reporter: Reporter, options: PublishingOptions) -> None:
    """Add the model card, and after it the hub uploader, which uploads the card."""
    repository = None
    if options.push_to_hub:
        from helpers.reporting.publish.hub import open_repository

        repository = open_repository(options)
        logger.info(f"publishing to {repository.address}, {'private' if options.hub_private else 'public'}")
    name, note = repository.name if repository else "", options.model_card_note or ""
    reporter.add(lambda: ModelCard(note=note, repository=name, clean=reporter.redact))
    if repository is not None:
        from helpers.reporting.publish.hub import HubUploader

        uploader = HubUploader(repository, checkpoints=options.push_checkpoints_to_hub)
        reporter.add(lambda: Uploads(uploader))


def _run_page(output_dir: Path, *, clean: Callable[[str], str]) -> Listener:
    from helpers.reporting.pages.run_page_listener import RunPage

    return BackgroundListener(RunPage(output_dir, clean=clean), name=RunPage.name)


def _tensorboard(folder: Path, *, name: str) -> Listener:
    from helpers.reporting.trackers.tensorboard import TensorboardTracker

    return BackgroundListener(TensorboardTracker(folder, name=name), name="tensorboard")


def _wandb(folder: Path, *, project: str, name: str) -> Listener:
    from helpers.reporting.trackers.wandb import WandbTracker

    return BackgroundListener(WandbTracker(folder, project=project, name=name), name="wandb")


def _webhook(path: Path, *, name: str) -> Listener:
    from helpers.reporting.webhook import WebhookSender

    webhook, problems = read_webhook(path.expanduser())
    if webhook is None:
        raise ConfigError(problems)
    sender = WebhookSender(webhook, run_name=name)
    return BackgroundListener(sender, name="the webhook", close_seconds=WEBHOOK_CLOSE_SECONDS)
