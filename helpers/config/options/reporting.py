"""Where a run reports besides the console, and in how much detail."""

from dataclasses import dataclass
from pathlib import Path

from helpers.config.option import OnResume, option

TRACKERS = ("wandb", "tensorboard")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class ReportingOptions:
    """Trackers, log files, console output and webhooks."""

    report_to: str = option(
        "none",
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Trackers to send metrics and images to: `none`, `wandb`, `tensorboard`, or a comma-separated list.",
    )
    tracker_project_name: str = option(
        "simpletuner",
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Project name in wandb.",
    )
    tracker_run_name: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Name of the run in trackers. If not set: the start time.",
    )
    logging_dir: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Folder for log files and the trackers' files. A relative path starts in the output folder. If not set: "
        "`logs` in the output folder.",
    )
    log_level: str = option(
        "info",
        choices=LOG_LEVELS,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Lowest level to show on the console: `debug` (with messages of libraries), `info`, `warning` or `error`.",
    )
    webhook_config: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="JSON file that sets where to send messages about the run: Discord or any URL.",
    )

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers asked for, in the words that were said."""
        said = (word.strip().lower() for word in self.report_to.split(","))
        return tuple(dict.fromkeys(word for word in said if word not in ("", "none")))

    def folder(self, output_dir: str) -> Path:
        """Where log files are written, in a run whose output folder was said as `output_dir`."""
        return Path(output_dir).expanduser() / Path(self.logging_dir or "logs").expanduser()
