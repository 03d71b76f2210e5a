"""A training run from top to bottom; `bash train.sh` starts it with the settings of config.env.

The phases are in helpers/training/run.py; documentation/ARCHITECTURE.md is the map. They are imported once the settings
are checked, so that an error in them is reported before PyTorch loads.
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
from helpers.config.load import load_config
from helpers.config.parse import given_options, wants_help
from helpers.config.secrets import secrets_of
from helpers.config.train_config import RunConfig
from helpers.errors import UserError
from helpers.log import set_level, set_up_logging
from helpers.reporting.events import Notice, RunFailed
from helpers.reporting.reporter import Reporter
from helpers.reporting.setup import add_listeners


def main(argv: Sequence[str]) -> int:
    """Run the trainer. Exit status: 0; 1 after an error that you can fix; 130 or 143 if interrupted."""
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
    """Add the listeners that the settings name, with secrets redacted; a dry run uses no remote ones."""
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
    """The whole run, from checked settings to the exit status. given: the options that were set."""
    from helpers.training.signals import Interrupted, handle_signals

    try:
        with handle_signals() as stop:
            from helpers.training import run as phases

            with phases.explain_lost_ranks():
                config = phases.with_init_lora(config, reporter, given=given)
                config = phases.with_settings_kept(config, reporter, given=given)
                context = phases.open_run(config, files, reporter)
                if config.run.dry_run:
                    phases.dry_run(config, files, context, reporter)
                else:
                    prepared = phases.fill_caches(config, files, context)
                    if config.cache.cache_only:
                        reporter.handle(Notice(text="all caches are filled; stopping here because of `cache_only`"))
                    else:
                        phases.run_training(config, prepared, stop, reporter)
                context.runtime.shutdown()
            stop.raise_if_requested()
    except Interrupted as interrupted:
        return interrupted.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
