"""The story of a run, read from top to bottom; `bash train.sh` starts it with the env file's settings.

What each chapter does stands in helpers/training/run.py; documentation/ARCHITECTURE.md is the map. Chapters are
imported once the settings are in order, so that a mistake in them is told of before PyTorch is loaded.
"""

import sys
import traceback
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime

from helpers.config.checks.launcher import rank_of_process
from helpers.config.datasets.file import DatasetFile
from helpers.config.docs import help_page
from helpers.config.env.libraries import set_up_libraries
from helpers.config.parse import given_options, load_config, wants_help
from helpers.config.secrets import secrets_of
from helpers.config.train_config import RunConfig
from helpers.errors import UserError
from helpers.log import set_level, set_up_logging
from helpers.reporting.events import Notice, RunFailed
from helpers.reporting.reporter import Reporter
from helpers.reporting.setup import add_listeners


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; the exit status: 0, 1 for what the user can fix, 130 or 143 if interrupted."""
    set_up_logging()
    set_up_libraries()
    if wants_help(argv):
        print(help_page())
        return 0
    reporter, rank = Reporter(), rank_of_process()
    status, failure = 1, None
    try:
        config, files = load_config(argv)
        setup_reporting(config, reporter, rank=rank)
        status = run(config, files, reporter, given=given_options(argv))
    except UserError as error:
        failure = error
        reporter.handle(RunFailed(message=str(error)))
    except Exception as error:
        reporter.handle(RunFailed(message=repr(error), traceback=traceback.format_exc()))
        raise
    finally:
        reporter.close()
    if failure is not None and rank == 0:
        print(reporter.redact(f"\n{failure}"), file=sys.stderr)
    elif failure is not None and not failure.on_every_rank:
        print(reporter.redact(f"\nprocess {rank}: {failure}"), file=sys.stderr)
    return status


def setup_reporting(config: RunConfig, reporter: Reporter, *, rank: int) -> None:
    """Let everyone listen whom the settings name, of a dry run nobody far away; no secret among what they hear."""
    secrets = secrets_of(config)
    set_level(config.reporting.log_level, secrets=secrets)
    reporter.redact_secrets(secrets)
    reporting, publishing = config.reporting, config.publishing
    if config.run.dry_run:
        reporting = replace(reporting, report_to="none", webhook_config=None)
    if config.run.dry_run or config.cache.cache_only:
        publishing = replace(publishing, push_to_hub=False)
    output_dir, started = config.run.output_dir, datetime.now()
    add_listeners(reporter, reporting, publishing=publishing, output_dir=output_dir, rank=rank, started=started)


def run(config: RunConfig, files: DatasetFile, reporter: Reporter, *, given: Collection[str] = ()) -> int:
    """The whole run, settings and dataset file being in order; its exit status. given: the options that were set."""
    from helpers.training.signals import Interrupted, handle_signals

    try:
        with handle_signals() as stop:
            from helpers.training import run as chapters

            with chapters.explain_lost_ranks():
                config = chapters.with_init_lora(config, reporter, given=given)
                site = chapters.open_run(config, files, reporter)
                if config.run.dry_run:
                    chapters.preview(config, files, site, reporter)
                else:
                    ground = chapters.fill_caches(config, files, site)
                    if config.cache.cache_only:
                        reporter.handle(Notice(text="the caches are filled; `cache_only` asks for nothing more"))
                    else:
                        chapters.run_training(config, ground, stop, reporter)
                site.runtime.shutdown()
            stop.raise_if_requested()
    except Interrupted as interrupted:
        return interrupted.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
