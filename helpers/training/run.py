"""The phases of a run, in order: open it, then a dry run, or fill the caches, train and finish. train.py calls them.

This module and setup.py are the only places below train.py that see the whole configuration.
"""

import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from helpers.config.datasets.file import DatasetFile
from helpers.config.option import recorded, written
from helpers.config.train_config import RunConfig, all_options
from helpers.errors import ConfigError, ModelError, Problem
from helpers.models.adapters.init_lora import options_from_file
from helpers.models.registry import family_of
from helpers.reporting.events import Change, Notice, RunFinished, RunStarted
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.checkpoint import Checkpoint
from helpers.training.checkpoint.compatibility import compare
from helpers.training.checkpoint.config_changes import compare_with_last_run
from helpers.training.checkpoint.export import export_result
from helpers.training.checkpoint.manifest import configuration_of
from helpers.training.checkpoint.provenance import provenance_of_result
from helpers.training.checkpoint.resume import checkpoint_of
from helpers.training.disk_space import check_cache_space
from helpers.training.distributed.runtime import explain_lost_ranks as explain_lost_ranks
from helpers.training.distributed.runtime import open_runtime
from helpers.training.loop import train
from helpers.training.memory import ENCODING, TRAINING, explain_out_of_memory, memory_needs
from helpers.training.noise_levels import describe_shift
from helpers.training.optim.optimizers import check_optimizer_on
from helpers.training.performance import check_attention, warm_up_compile
from helpers.training.plan import LoopPlan, TrainState
from helpers.training.preparation.dataset_report import log_buckets, report_datasets
from helpers.training.preparation.dry_run import log_plan, truncated_captions
from helpers.training.preparation.early_check import checked_parts
from helpers.training.preparation.epochs import batches_from
from helpers.training.preparation.prepare import (
    PreparedRun,
    RunContext,
    all_captions,
    cache_needs,
    lengths_of_captions,
    open_catalogs,
    prepare_latents,
    prepare_text,
    warn_long_captions,
    workers_for,
)
from helpers.training.setup import (
    TrainingSetup,
    batch_source,
    check_space_for_checkpoints,
    load_model,
    make_hooks,
    make_plan,
    make_sampler,
    run_inputs,
    starting_point,
)
from helpers.training.signals import StopSignal
from helpers.training.validation.images import validation_prompts
from helpers.training.validation.split import split_validation, training_split

PREFETCHED_BATCHES = 4


def with_init_lora(config: RunConfig, reporter: Reporter, *, given: Collection[str]) -> RunConfig:
    """The configuration, with LoRA options that are not `given` taken from the INIT_LORA file.

    Raises ConfigError if the file is not a LoRA, or does not fit the base model or the options.
    """
    path = config.lora.init_file
    if path is None or config.model.model_type != "lora":
        return config
    family = family_of(config.model.pretrained_model_name_or_path)
    components = checked_parts(config, family=family)
    try:
        pairs = family.formats.read_lora(path)
    except ModelError as error:
        fix = f"name a LoRA for {family.facts.title}, or remove the setting"
        raise ConfigError([Problem(option="INIT_LORA", value=str(path), reason=str(error), fix=fix)]) from error
    lora = options_from_file(
        config.lora,
        given=given,
        pairs=pairs,
        layers=family.adapter_layers(components),
        base=components.variant,
        trains_text=config.text.train_text_encoder,
    )
    shape = f"a {lora.adapter_name} of rank {lora.lora_rank} and alpha {lora.alpha:g} on {len(pairs)} layers"
    reporter.handle(Notice(text=f"starts from {path}: {shape}"))
    return replace(config, lora=lora)


def with_settings_kept(config: RunConfig, reporter: Reporter, *, given: Collection[str]) -> RunConfig:
    """The configuration, with options that are not `given` and whose default has changed taken from the checkpoint.

    Raises CheckpointError if the requested checkpoint does not exist.
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
    """Open the runtime, the model's files and the datasets, and check them; no weights are loaded yet."""
    runtime = open_runtime(config.precision, config.run)
    check_attention(config.speed, runtime=runtime)
    check_optimizer_on(runtime.device, config.optimizer)
    family = family_of(config.model.pretrained_model_name_or_path)
    components = checked_parts(config, family=family)
    compare_with_last_run(config, files, ranks=runtime, reporter=reporter)
    if sources := components.describe_sources():
        reporter.handle(Notice(text=sources))
    if components.absent:
        reporter.handle(Notice(text=f"trains without {', '.join(components.absent)} (T5): zeros replace its output"))
    workers = workers_for(config.data, ranks=runtime, reporter=reporter)
    catalogs = open_catalogs(files, parts=components, seed=config.run.seed, workers=workers)
    vae_batch_size = max(dataset.vae_batch_size for dataset in files.all_images)
    vae = family.latent_part(components, runtime.precision, runtime.device, vae_batch_size=vae_batch_size)
    return RunContext(
        runtime=runtime,
        workers=workers,
        family=family,
        parts=components,
        text_parts=family.text_parts(components, config.text, runtime.precision, runtime.device),
        latent_part=vae.cached() if config.cache.keep_vae_loaded else vae,
        vae_batch_size=vae_batch_size,
        catalogs=catalogs,
        captions=all_captions(files, catalogs=catalogs),
        validation_captions=validation_prompts(config.validation),
    )


def dry_run(config: RunConfig, files: DatasetFile, context: RunContext, reporter: Reporter) -> None:
    """Report what the run would do and need, and write datasets.html."""
    if context.runtime.rank != 0:
        return
    catalogs = training_split(
        context.catalogs[: len(files.images)], count=config.held_out.num_eval_images, seed=config.run.seed
    )
    sampler = make_sampler(catalogs, run=config.run, world_size=context.runtime.world_size)
    report_datasets(
        config.run.output_folder,
        catalogs=catalogs,
        order=sampler,
        lengths_of=lengths_of_captions(files, context=context),
        workers=context.workers,
    )
    log_plan(
        catalogs=context.catalogs,
        order=sampler,
        plan=make_plan(config, order=sampler),
        truncated=truncated_captions(files, context=context),
        needs=cache_needs(files, context=context, options=config.cache),
        estimate=memory_needs(config, files, prepared=context, catalogs=catalogs).estimate,
        device=context.runtime.device,
        output_dir=config.run.output_folder,
        reporter=reporter,
    )


def fill_caches(config: RunConfig, files: DatasetFile, context: RunContext) -> PreparedRun:
    """Encode every image and caption that no cache holds yet. Raises CacheError if the disk has no room for them."""
    needs = partial(memory_needs, config, files, prepared=context, catalogs=context.catalogs)
    with explain_out_of_memory(ENCODING, needs):
        warn_long_captions(files, context=context)
        check_cache_space(partial(cache_needs, files, context=context, options=config.cache))
        text = prepare_text(files, context=context, options=config.cache)
        encoded = tuple(
            prepare_latents(dataset, files=files, catalog=catalog, part=context.latent_part, workers=context.workers)
            for dataset, catalog in zip(files.all_images, context.catalogs, strict=True)
        )
    trained, held_out = split_validation(
        encoded[: len(files.images)],
        count=config.held_out.num_eval_images,
        seed=config.run.seed,
        part=context.latent_part,
        reporter=context.workers.reporter,
    )
    return PreparedRun(
        runtime=context.runtime,
        workers=context.workers,
        family=context.family,
        parts=context.parts,
        latent_part=context.latent_part,
        files=files,
        datasets=trained,
        text=text,
        lengths_of_captions=lengths_of_captions(files, context=context),
        held_out=(*encoded[len(files.images) :], *held_out),
    )


def run_training(config: RunConfig, prepared: PreparedRun, stop: StopSignal, reporter: Reporter) -> None:
    """Resume or start, train, and export the result."""
    needs = partial(memory_needs, config, prepared.files, prepared=prepared, catalogs=prepared.catalogs.values())
    with explain_out_of_memory(TRAINING, needs):
        _train(config, prepared, stop, reporter)


def _train(config: RunConfig, prepared: PreparedRun, stop: StopSignal, reporter: Reporter) -> None:
    catalogs = tuple(prepared.catalogs.values())
    sampler = make_sampler(catalogs, run=config.run, world_size=prepared.runtime.world_size)
    log_buckets(sampler, reporter)
    if text := describe_shift(config.objective, order=sampler, model_shift=prepared.parts.flow_shift):
        reporter.handle(Notice(text=text))
    report_datasets(
        config.run.output_folder,
        catalogs=catalogs,
        order=sampler,
        lengths_of=prepared.lengths_of_captions,
        workers=prepared.workers,
    )
    checkpoint, state = starting_point(config, prepared_run=prepared, order=sampler, reporter=reporter)
    plan = make_plan(config, order=sampler, start=state)
    if state.step >= plan.total_steps:
        text = f"all {plan.total_steps} steps of this run are done; to continue, raise max_train_steps"
        reporter.handle(Notice(text=text))
    model = load_model(config, prepared_run=prepared, order=sampler, checkpoint=checkpoint, reporter=reporter)
    reporter.handle(_run_started(config, prepared=prepared, model=model, checkpoint=checkpoint, state=state, plan=plan))
    if prepared.runtime.rank == 0:
        check_space_for_checkpoints(config, model=model, saves=plan.remaining_saves(state.step))
    source = batch_source(config, prepared_run=prepared, model=model, order=sampler)
    warm_up_compile(config.speed, step_context=model.step_context, source=source, reporter=reporter)
    with closing(
        batches_from(state.position, source=source, prepared_run=prepared, depth=PREFETCHED_BATCHES)
    ) as batches:
        train(
            model.step_context,
            optimizer=model.optimizer,
            state=state,
            batches=batches,
            plan=plan,
            hooks=make_hooks(config, prepared_run=prepared, model=model, stop=stop, reporter=reporter),
            stop=stop,
            reporter=reporter,
        )
    _finish(config, prepared, model=model, state=state, plan=plan, reporter=reporter)


def _run_started(
    config: RunConfig,
    *,
    prepared: PreparedRun,
    model: TrainingSetup,
    checkpoint: Checkpoint | None,
    state: TrainState,
    plan: LoopPlan,
) -> RunStarted:
    """The event that describes the run, and what changed since `checkpoint`."""
    configuration = configuration_of(config)
    changes: tuple[Change, ...] = ()
    if checkpoint is not None:
        changes = compare(
            checkpoint.manifest,
            configuration=configuration,
            foundations=run_inputs(prepared),
            folder=str(checkpoint.folder),
        ).announced
    return RunStarted(
        base_model=prepared.parts.name,
        model_type=config.model.model_type,
        trainable_parameters=sum(weight.numel() for weight in model.step_context.weights.values()),
        settings=configuration,
        datasets={dataset_id: len(catalog) for dataset_id, catalog in prepared.catalogs.items()},
        output_dir=config.run.output_folder,
        first_step=state.step,
        total_steps=plan.total_steps,
        changes=changes,
        base_variant=prepared.parts.variant,
        pipeline_class=prepared.family.facts.pipeline_class,
        hub_tag=prepared.family.facts.hub_tag,
        known_licenses=prepared.family.facts.licenses,
        text_options=prepared.family.facts.text_options,
        base_folder=prepared.parts.transformer.parent,
        trained=model.trained.summary,
        result=model.trained.output_name,
    )


def _finish(
    config: RunConfig,
    prepared: PreparedRun,
    *,
    model: TrainingSetup,
    state: TrainState,
    plan: LoopPlan,
    reporter: Reporter,
) -> None:
    """Export the weights of a complete run, and report the files."""
    output_dir = config.run.output_folder
    exported: list[Path] = []
    complete = state.step >= plan.total_steps
    if complete:
        with prepared.runtime.gathered_weights(model.denoiser):
            if prepared.runtime.rank == 0:
                exported = _export(config, prepared, model=model, step=state.step, reporter=reporter)
    written = [*exported, output_dir / f"checkpoint-{state.step}"]
    if config.validation.draws:
        written.append(output_dir / "validation_images")
    reporter.handle(
        RunFinished(
            step=state.step,
            seconds=time.monotonic() - model.started,
            written=tuple(written),
            interrupted=not complete,
            next_step=config.run.next_step if complete else "",
            exported=tuple(exported),
        )
    )


def _export(
    config: RunConfig, prepared: PreparedRun, *, model: TrainingSetup, step: int, reporter: Reporter
) -> list[Path]:
    metadata = provenance_of_result(
        config,
        parts=prepared.parts,
        family=prepared.family.facts,
        trained=model.trained,
        foundations=run_inputs(prepared),
        step=step,
        clean=reporter.redact,
    )
    with model.average.applied():
        written = export_result(
            config.run.output_folder,
            trained=model.trained,
            metadata={**metadata, **model.average.facts},
            more=config.export,
            parts=prepared.parts,
            family=prepared.family,
            reporter=reporter,
        )
        return list(written)
