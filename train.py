"""The story of a run, read from top to bottom; `bash train.sh` starts it with the env file's settings.

Each chapter's details are behind the names it calls; documentation/ARCHITECTURE.md is the map. Chapters import what
they need when they begin, so that a mistake in the settings is told of before PyTorch is loaded.
"""

import sys
import traceback
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING

from helpers.config.cli import wants_help
from helpers.config.datasets import DatasetFile
from helpers.config.everything import read_everything
from helpers.config.help_page import help_page
from helpers.config.processes import rank_of_process
from helpers.config.run_config import RunConfig
from helpers.config.secrets import secrets_of
from helpers.errors import ConfigError, UserError
from helpers.log import set_level, set_up_logging
from helpers.reporting.events import Notice, RunFailed
from helpers.reporting.listeners import invite_listeners
from helpers.reporting.reporter import Reporter

if TYPE_CHECKING:
    from helpers.training.prepare import Ground
    from helpers.training.stop import StopRequest

FAMILY = "sd3"
BATCHES_AHEAD = 4


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; the exit status: 0, 1 for what the user can cure, 130 or 143 if interrupted."""
    set_up_logging()
    if wants_help(argv):
        print(help_page())
        return 0
    reporter, rank = Reporter(), rank_of_process()
    status, failure = 1, None
    try:
        config, files = read_everything(argv)
        open_reports(config, reporter, rank=rank)
        status = run(config, files, reporter)
    except UserError as error:
        failure = error
        reporter.hear(RunFailed(message=str(error)))
    except Exception as error:
        reporter.hear(RunFailed(message=repr(error), traceback=traceback.format_exc()))
        raise
    finally:
        reporter.close()
    if failure is not None and rank == 0:
        print(reporter.clean(f"\n{failure}"), file=sys.stderr)
    elif failure is not None and not isinstance(failure, ConfigError):  # which the first process tells
        print(reporter.clean(f"\nprocess {rank}: {failure}"), file=sys.stderr)
    return status


def open_reports(config: RunConfig, reporter: Reporter, *, rank: int) -> None:
    """Let everyone listen whom the settings name; no secret among what they hear."""
    secrets = secrets_of(config)
    set_level(config.reporting.log_level, secrets=secrets)
    reporter.keep_secret(secrets)
    output_dir = config.run.output_dir
    invite_listeners(reporter, config.reporting, output_dir=output_dir, rank=rank, started=datetime.now())


def run(config: RunConfig, files: DatasetFile, reporter: Reporter) -> int:
    """The whole run, settings and dataset file being in order; its exit status."""
    from helpers.training.stop import Interrupted, heed_signals

    try:
        with heed_signals() as stop:
            ground = prepare(config, files, reporter)
            if config.cache.cache_only:
                reporter.hear(Notice(text="the caches are filled; `cache_only` asks for nothing more"))
            else:
                learn(config, ground, stop, reporter)
    except Interrupted as interrupted:
        return interrupted.exit_status
    return 0


def prepare(config: RunConfig, files: DatasetFile, reporter: Reporter) -> "Ground":
    """Chapter 1: find the engine, the model's parts and the pictures; encode what no cache holds yet."""
    from helpers.models.registry import families
    from helpers.training import prepare as road
    from helpers.training.last_run import look_back
    from helpers.training.runtime import open_runtime
    from helpers.training.validation import validation_captions

    runtime = open_runtime(config.precision, config.run)
    look_back(config, files, ranks=runtime, reporter=reporter)
    family = families()[FAMILY]
    parts = family.locate(config.model)
    workers = road.workers_for(config.data, ranks=runtime, reporter=reporter)
    catalogs = road.open_catalogs(files, parts=parts, seed=config.run.seed, workers=workers)
    text_parts = family.text_parts(parts, config.text, runtime.precision, runtime.device)
    road.tell_of_captions(files, catalogs=catalogs, parts=text_parts, workers=workers)
    text = road.prepare_text(
        files,
        catalogs=catalogs,
        captions=validation_captions(config.validation),
        family=family,
        parts=text_parts,
        options=config.cache,
        workers=workers,
    )
    vae_batch_size = max(dataset.vae_batch_size for dataset in files.prepared)
    latent_part = family.latent_part(parts, runtime.precision, runtime.device, vae_batch_size=vae_batch_size)
    if config.cache.keep_vae_loaded:
        latent_part = latent_part.kept()
    prepared = tuple(
        road.prepare_latents(dataset, files=files, catalog=catalog, part=latent_part, workers=workers)
        for dataset, catalog in zip(files.prepared, catalogs, strict=True)
    )
    return road.Ground(
        runtime=runtime,
        workers=workers,
        family=family,
        parts=parts,
        latent_part=latent_part,
        datasets=prepared[: len(files.images)],
        text=text,
        kept_back=prepared[len(files.images) :],
    )


def learn(config: RunConfig, ground: "Ground", stop: "StopRequest", reporter: Reporter) -> None:
    """Chapter 2: order the pictures, go on where a checkpoint left off, train, and write what was learnt."""
    from helpers.training import assemble
    from helpers.training.datasets_report import report_datasets
    from helpers.training.epochs import batches_from
    from helpers.training.loop import train
    from helpers.training.plan import plan_run

    order = assemble.order_of(ground, run=config.run, reporter=reporter)
    catalogs = tuple(ground.catalogs.values())
    report_datasets(config.run.output_folder, catalogs=catalogs, order=order, workers=ground.workers)
    plan = plan_run(
        order, run=config.run, optimizer=config.optimizer, checkpoint=config.checkpoint, validation=config.validation
    )
    checkpoint, state = assemble.starting_point(config, ground=ground, order=order, reporter=reporter)
    if state.step >= plan.total_steps:
        text = f"this run is finished, all {plan.total_steps} steps of it; a larger max_train_steps goes on from here"
        reporter.hear(Notice(text=text))
    model = assemble.load_model(config, ground=ground, checkpoint=checkpoint, reporter=reporter)
    reporter.hear(
        assemble.run_started(config, ground=ground, model=model, checkpoint=checkpoint, state=state, plan=plan)
    )
    source = assemble.batch_source(config, ground=ground, order=order)
    with closing(batches_from(state.position, source=source, ground=ground, depth=BATCHES_AHEAD)) as batches:
        train(
            model.learner,
            optimiser=model.optimiser,
            state=state,
            batches=batches,
            plan=plan,
            duties=assemble.duties_of(config, ground=ground, model=model, stop=stop, reporter=reporter),
            stop=stop,
            reporter=reporter,
        )
    assemble.finish(config, ground=ground, model=model, state=state, plan=plan, reporter=reporter)
    stop.raise_if_requested()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
