"""The chapters of a run, each handed the whole configuration; train.py tells their order, this what is in them."""

from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from functools import partial

from helpers.config.datasets.file import DatasetFile
from helpers.config.option import recorded, written
from helpers.config.train_config import RunConfig, all_options
from helpers.errors import ConfigError, ModelError, Problem
from helpers.models.adapters.init_lora import options_from_file
from helpers.models.registry import families
from helpers.reporting.events import Notice
from helpers.reporting.reporter import Reporter
from helpers.training import setup as assemble
from helpers.training.checkpoint.config_changes import compare_with_last_run
from helpers.training.checkpoint.resume import checkpoint_of
from helpers.training.disk_space import check_cache_space
from helpers.training.distributed.runtime import explain_lost_ranks as explain_lost_ranks
from helpers.training.distributed.runtime import open_runtime
from helpers.training.finish import finish
from helpers.training.images import validation_prompts
from helpers.training.loop import train
from helpers.training.memory import ENCODING, TRAINING, explain_out_of_memory, memory_needs
from helpers.training.optim.optimizers import check_optimizer_on
from helpers.training.performance import check_attention, warm_up_compile
from helpers.training.preparation import dry_run
from helpers.training.preparation import prepare as road
from helpers.training.preparation.dataset_report import report_datasets
from helpers.training.preparation.early_check import checked_parts
from helpers.training.preparation.epochs import batches_from
from helpers.training.preparation.prepare import PreparedRun, RunContext
from helpers.training.sigma_losses import shift_in_words
from helpers.training.signals import StopSignal
from helpers.training.validation.split import split_validation, training_split

FAMILY = "sd3"
BATCHES_AHEAD = 4


def with_init_lora(config: RunConfig, reporter: Reporter, *, given: Collection[str]) -> RunConfig:
    """The configuration with what INIT_LORA decides of the options that are not among the `given` ones.

    Raises ConfigError where the file is no LoRA, or does not fit the base model or the options.
    """
    path = config.lora.init_file
    if path is None or config.model.model_type != "lora":
        return config
    family = families()[FAMILY]
    parts = checked_parts(config, family=family)
    try:
        pairs = family.formats.read_lora(path)
    except ModelError as error:
        fix = "name a LoRA for SD3 or SD3.5, or leave it out"
        raise ConfigError([Problem(option="INIT_LORA", value=str(path), reason=str(error), fix=fix)]) from error
    lora = options_from_file(
        config.lora,
        given=given,
        pairs=pairs,
        layers=family.adapter_layers(parts),
        base=parts.variant,
        trains_text=config.text.train_text_encoder,
    )
    shape = f"a {lora.adapter_name} of rank {lora.lora_rank} and alpha {lora.alpha:g} on {len(pairs)} layers"
    reporter.handle(Notice(text=f"begins at {path}: {shape}"))
    return replace(config, lora=lora)


def with_settings_kept(config: RunConfig, reporter: Reporter, *, given: Collection[str]) -> RunConfig:
    """The configuration with the checkpoint's values of options whose default has changed since, where none is given.

    Raises CheckpointError where the checkpoint asked for is not there.
    """
    checkpoint = checkpoint_of(config)
    if checkpoint is None:
        return config
    for option in all_options():
        group = getattr(config, option.group)
        value = getattr(group, option.name)
        kept = recorded(option, checkpoint.manifest.configuration, otherwise=value)
        if option.unrecorded is not None and option.name not in given and kept != value:
            config = replace(config, **{option.group: replace(group, **{option.name: kept})})
            text = f"{option.env} is not set: it stays {written(kept)}, as in {checkpoint.folder}"
            reporter.handle(Notice(text=f"{text} (the default of a new run is {written(value)})"))
    return config


def open_run(config: RunConfig, files: DatasetFile, reporter: Reporter) -> RunContext:
    """Chapter 1: find the engine, the model's parts and the images, check their files, and load none of them."""
    runtime = open_runtime(config.precision, config.run)
    check_attention(config.speed, runtime=runtime)
    check_optimizer_on(runtime.device, config.optimizer)
    family = families()[FAMILY]
    parts = checked_parts(config, family=family)
    compare_with_last_run(config, files, ranks=runtime, reporter=reporter)
    if told := parts.describe_sources():
        reporter.handle(Notice(text=told))
    if parts.absent:
        reporter.handle(Notice(text=f"trained without {', '.join(parts.absent)} (T5): zeros in its place"))
    workers = road.workers_for(config.data, ranks=runtime, reporter=reporter)
    catalogs = road.open_catalogs(files, parts=parts, seed=config.run.seed, workers=workers)
    vae_batch_size = max(dataset.vae_batch_size for dataset in files.all_images)
    latent_part = family.latent_part(parts, runtime.precision, runtime.device, vae_batch_size=vae_batch_size)
    return road.RunContext(
        runtime=runtime,
        workers=workers,
        family=family,
        parts=parts,
        text_parts=family.text_parts(parts, config.text, runtime.precision, runtime.device),
        latent_part=latent_part.cached() if config.cache.keep_vae_loaded else latent_part,
        vae_batch_size=vae_batch_size,
        catalogs=catalogs,
        captions=road.all_captions(files, catalogs=catalogs),
        drawn_captions=validation_prompts(config.validation),
    )


def preview(config: RunConfig, files: DatasetFile, site: RunContext, reporter: Reporter) -> None:
    """Chapter 2 of a dry run, and its last: say what a run would do and need."""
    if site.runtime.rank != 0:
        return
    catalogs = training_split(
        site.catalogs[: len(files.images)], count=config.held_out.num_eval_images, seed=config.run.seed
    )
    order = assemble.make_sampler(catalogs, run=config.run, world_size=site.runtime.world_size)
    report_datasets(
        config.run.output_folder,
        catalogs=catalogs,
        order=order,
        lengths_of=road.lengths_of_captions(files, site=site),
        workers=site.workers,
    )
    dry_run.log_plan(
        catalogs=site.catalogs,
        order=order,
        plan=assemble.make_plan(config, order=order),
        cut=dry_run.truncated_captions(files, site=site),
        needs=road.cache_needs(files, site=site, options=config.cache),
        estimate=memory_needs(config, files, place=site, catalogs=catalogs).estimate,
        device=site.runtime.device,
        output_dir=config.run.output_folder,
        reporter=reporter,
    )


def fill_caches(config: RunConfig, files: DatasetFile, site: RunContext) -> PreparedRun:
    """Chapter 2: encode what no cache holds yet, if the disk has room for it."""
    with explain_out_of_memory(ENCODING, lambda: memory_needs(config, files, place=site, catalogs=site.catalogs)):
        return _encode(config, files, site)


def _encode(config: RunConfig, files: DatasetFile, site: RunContext) -> PreparedRun:
    road.warn_long_captions(files, site=site)
    check_cache_space(partial(road.cache_needs, files, site=site, options=config.cache))
    text = road.prepare_text(files, site=site, options=config.cache)
    prepared = tuple(
        road.prepare_latents(dataset, files=files, catalog=catalog, part=site.latent_part, workers=site.workers)
        for dataset, catalog in zip(files.all_images, site.catalogs, strict=True)
    )
    trained, split = split_validation(
        prepared[: len(files.images)],
        count=config.held_out.num_eval_images,
        seed=config.run.seed,
        part=site.latent_part,
        reporter=site.workers.reporter,
    )
    return road.PreparedRun(
        runtime=site.runtime,
        workers=site.workers,
        family=site.family,
        parts=site.parts,
        latent_part=site.latent_part,
        files=files,
        datasets=trained,
        text=text,
        lengths_of_captions=road.lengths_of_captions(files, site=site),
        kept_back=(*prepared[len(files.images) :], *split),
    )


def run_training(config: RunConfig, ground: PreparedRun, stop: StopSignal, reporter: Reporter) -> None:
    """Chapter 3: order the images, go on where a checkpoint left off, train, and write what was learned."""
    with explain_out_of_memory(
        TRAINING, lambda: memory_needs(config, ground.files, place=ground, catalogs=ground.catalogs.values())
    ):
        _learn(config, ground, stop, reporter)


def _learn(config: RunConfig, ground: PreparedRun, stop: StopSignal, reporter: Reporter) -> None:
    catalogs = tuple(ground.catalogs.values())
    order = assemble.make_sampler(catalogs, run=config.run, world_size=ground.runtime.world_size)
    assemble.log_buckets(order, reporter)
    if text := shift_in_words(config.objective, order=order, model_shift=ground.parts.flow_shift):
        reporter.handle(Notice(text=text))
    report_datasets(
        config.run.output_folder,
        catalogs=catalogs,
        order=order,
        lengths_of=ground.lengths_of_captions,
        workers=ground.workers,
    )
    checkpoint, state = assemble.starting_point(config, ground=ground, order=order, reporter=reporter)
    plan = assemble.make_plan(config, order=order, start=state)
    if state.step >= plan.total_steps:
        text = f"this run is finished, all {plan.total_steps} steps of it; a larger max_train_steps goes on from here"
        reporter.handle(Notice(text=text))
    model = assemble.load_model(config, ground=ground, checkpoint=checkpoint, reporter=reporter)
    reporter.handle(
        assemble.run_started(config, ground=ground, model=model, checkpoint=checkpoint, state=state, plan=plan)
    )
    if ground.runtime.rank == 0:
        assemble.check_space_for_checkpoints(config, model=model, saves=plan.remaining_saves(state.step))
    source = assemble.batch_source(config, ground=ground, model=model, order=order)
    warm_up_compile(config.speed, learner=model.learner, source=source, reporter=reporter)
    with closing(batches_from(state.position, source=source, ground=ground, depth=BATCHES_AHEAD)) as batches:
        train(
            model.learner,
            optimizer=model.optimizer,
            state=state,
            batches=batches,
            plan=plan,
            hooks=assemble.make_hooks(config, ground=ground, model=model, stop=stop, reporter=reporter),
            stop=stop,
            reporter=reporter,
        )
    finish(config, ground=ground, model=model, state=state, plan=plan, reporter=reporter)
