"""Who is told of a run besides the console, and how much."""

from dataclasses import dataclass
from pathlib import Path

from helpers.config.option import OnResume, option

TRACKERS = ("wandb", "tensorboard")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class ReportingOptions:
    """Trackers, the log file, the console's detail and webhooks."""

    report_to: str = option(
        "none",
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Trackers that are told of figures and images: `none`, `wandb`, `tensorboard`, or a comma list.",
    )
    tracker_project_name: str = option(
        "simpletuner",
        on_resume=OnResume.IGNORE,
        publish=False,
        help="The project that runs are listed under in wandb.",
    )
    tracker_run_name: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="The run's name in trackers; without it, the start time.",
    )
    logging_dir: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Where log files and the trackers' files are written, a relative path starting in the output folder; "
        "without it, `logs` there.",
    )
    log_level: str = option(
        "info",
        choices=LOG_LEVELS,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="The least that the console shows: `debug` (also what libraries say), `info`, `warning` or `error`.",
    )
    webhook_config: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="A JSON file that says where messages about the run are sent, Discord or any address.",
    )

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers asked for, in the words that were said."""
        said = (word.strip().lower() for word in self.report_to.split(","))
        return tuple(dict.fromkeys(word for word in said if word not in ("", "none")))

    def folder(self, output_dir: str) -> Path:
        """Where log files are written, in a run whose output folder was said as `output_dir`."""
        return Path(output_dir).expanduser() / Path(self.logging_dir or "logs").expanduser()
