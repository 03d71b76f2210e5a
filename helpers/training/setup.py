"""Builds the objects of a run from the configuration: sampler, model, optimizer, hooks and evaluators."""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.optim import Optimizer

from helpers.config.options.training import RunOptions
from helpers.config.train_config import RunConfig
from helpers.data.types import Catalog
from helpers.dataloader.loader import BatchBuilder
from helpers.dataloader.sampler import SampleOrder
from helpers.errors import TrainingError
from helpers.models.adapters.registry import build_trainable, describe
from helpers.models.adapters.trainable import Trainable
from helpers.models.quantized_weight import ARITHMETIC
from helpers.reporting.events import Notice
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter
from helpers.training.callbacks import VALIDATE_NOW, MainRankHooks, NoHooks, ShardedHooks, shard_weights
from helpers.training.checkpoint.checkpoint import (
    Checkpoint,
    CheckpointContent,
    CheckpointWriter,
    clear_partial_checkpoints,
    find_checkpoint,
    restore_optimizer_state,
    restore_trained,
)
from helpers.training.checkpoint.config_changes import relevant_dataset_settings
from helpers.training.checkpoint.manifest import RunInputs, configuration_of, dataset_fingerprints
from helpers.training.checkpoint.provenance import provenance
from helpers.training.checkpoint.resume import starting_state
from helpers.training.conditioning import TextConditioning, build_conditioning
from helpers.training.disk_space import check_checkpoint_space, checkpoint_bytes
from helpers.training.loop import TrainingHooks
from helpers.training.memory import memory_needs
from helpers.training.noise_levels import sigma_quantiles
from helpers.training.optim.ema import WeightAverage, validation_weights
from helpers.training.optim.schedule_free import make_weight_average
from helpers.training.optim.zero import wrap_model_and_optimizer
from helpers.training.performance import apply_performance_options
from helpers.training.plan import Interval, LoopPlan, TrainState, plan_run
from helpers.training.preparation.prepare import PreparedRun
from helpers.training.signals import StopSignal
from helpers.training.step import StepContext
from helpers.training.validation.evaluator import Evaluator
from helpers.training.validation.images import ImageValidator
from helpers.training.validation.loss import LossValidator


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What learns; `denoiser` is the bare module, which the step_context's may wrap. started: by `time.monotonic`."""

    step_context: StepContext
    trained: Trainable
    denoiser: nn.Module
    text: TextConditioning
    optimizer: Optimizer
    average: WeightAverage
    started: float


def make_sampler(catalogs: Iterable[Catalog], *, run: RunOptions, world_size: int) -> SampleOrder:
    """The order of all images over the run."""
    buckets = [bucket for catalog in catalogs for bucket in catalog.buckets]
    return SampleOrder(buckets, seed=run.seed, batch_size=run.train_batch_size, world_size=world_size)


def make_plan(config: RunConfig, *, order: SampleOrder, start: TrainState | None = None) -> LoopPlan:
    """The plan of the run; see `plan_run`."""
    return plan_run(order, run=config.run, optimizer=config.optimizer, checkpoint=config.checkpoint, start=start)


def starting_point(
    config: RunConfig, *, prepared_run: PreparedRun, order: SampleOrder, reporter: Reporter
) -> tuple[Checkpoint | None, TrainState]:
    """The checkpoint to resume from and its state; None and a fresh state for a new run.

    Raises CheckpointError if the requested checkpoint does not exist or belongs to another run.
    """
    output_dir = config.run.output_folder
    if prepared_run.runtime.rank == 0:
        clear_partial_checkpoints(output_dir, reporter=reporter)
    prepared_run.runtime.barrier()
    checkpoint = find_checkpoint(output_dir, config.checkpoint.resume_from_checkpoint, reporter=reporter)
    state = starting_state(
        checkpoint,
        configuration=configuration_of(config),
        foundations=run_inputs(prepared_run),
        order=order,
        reporter=reporter,
    )
    return checkpoint, state


def batch_source(
    config: RunConfig, *, prepared_run: PreparedRun, model: TrainingSetup, order: SampleOrder
) -> BatchBuilder:
    """Builds this rank's batches."""
    return BatchBuilder(
        order=order,
        catalogs=prepared_run.catalogs,
        latents=prepared_run.latents,
        mirrored=prepared_run.mirrored,
        text=prepared_run.text,
        tokens=model.text.tokens,
        objective=config.objective,
        model_shift=prepared_run.parts.flow_shift,
        caption_dropout_probability=config.run.caption_dropout_probability,
        seed=config.run.seed,
        rank=prepared_run.runtime.rank,
    )


def load_model(
    config: RunConfig,
    *,
    prepared_run: PreparedRun,
    order: SampleOrder,
    checkpoint: Checkpoint | None,
    reporter: Reporter,
) -> TrainingSetup:
    """Load the base model, add what is trained, and restore the checkpoint, if any."""
    started = time.monotonic()
    family, runtime = prepared_run.family, prepared_run.runtime
    precision = runtime.precision.for_training(model_type=config.model.model_type, optimizer=config.optimizer.optimizer)
    with stage(reporter, f"load {prepared_run.parts.variant}", total=1, unit="models") as advance:
        offloaded = config.speed.offload_blocks
        denoiser = family.load_denoiser(prepared_run.parts, precision, runtime.device, waiting=offloaded)
        advance()
    trained, text = _build_trainable(config, denoiser, prepared_run=prepared_run, reporter=reporter)
    reporter.handle(Notice(text=describe(trained)))
    apply_performance_options(denoiser, config.speed, run=config.run, family=family, device=runtime.device)
    if config.optimizer.fused_backward and runtime.world_size > 1:
        raise TrainingError("fused_backward=true updates weights before processes share gradients: set it to false.")
    if checkpoint is not None:
        restore_trained(checkpoint, trained=trained)
    trained = shard_weights(denoiser, trained=trained, runtime=runtime)
    ready, optimizer = wrap_model_and_optimizer(
        text.module, config.optimizer, weights=trained.weights, run=config.run, runtime=runtime
    )
    if checkpoint is not None:
        restore_optimizer_state(checkpoint, weights=trained.weights, optimizer=optimizer)
    average = make_weight_average(config.ema, config.optimizer, weights=trained.weights, optimizer=optimizer)
    if checkpoint is not None:
        average.load(checkpoint.folder)
    return TrainingSetup(
        step_context=_step_context(config, prepared_run=prepared_run, order=order, denoiser=ready, trained=trained),
        trained=trained,
        denoiser=denoiser,
        text=text,
        optimizer=optimizer,
        average=average,
        started=started,
    )


def _build_trainable(
    config: RunConfig, denoiser: nn.Module, *, prepared_run: PreparedRun, reporter: Reporter
) -> tuple[Trainable, TextConditioning]:
    trained = build_trainable(
        denoiser,
        model_type=config.model.model_type,
        lora=config.lora,
        full=config.full,
        family=prepared_run.family,
        parts=prepared_run.parts,
        seed=config.run.seed,
    )
    text, trained = build_conditioning(
        denoiser,
        trained=trained,
        prepared_run=prepared_run,
        text=config.text,
        lora=config.lora,
        run=config.run,
        reporter=reporter,
    )
    return trained, text


def _step_context(
    config: RunConfig, *, prepared_run: PreparedRun, order: SampleOrder, denoiser: nn.Module, trained: Trainable
) -> StepContext:
    return StepContext(
        runtime=prepared_run.runtime,
        denoiser=denoiser,
        weights=trained.weights,
        predict=prepared_run.family.predict,
        as_base=trained.as_base,
        objective=config.objective,
        sigma_edges=sigma_quantiles(config.objective, order=order, model_shift=prepared_run.parts.flow_shift),
    )


def check_space_for_checkpoints(config: RunConfig, *, model: TrainingSetup, saves: int) -> None:
    """See `check_checkpoint_space`. saves: the checkpoints still to come."""
    size = checkpoint_bytes(
        model.step_context.weights.values(), optimizer=config.optimizer.optimizer, keeps_average=config.ema.use_ema
    )
    keep = config.checkpoint.checkpoints_total_limit
    check_checkpoint_space(config.run.output_folder, each_bytes=size, saves=saves, keep=keep)


def make_hooks(
    config: RunConfig, *, prepared_run: PreparedRun, model: TrainingSetup, stop: StopSignal, reporter: Reporter
) -> TrainingHooks:
    """The hooks of this rank, called between steps."""
    hooks = _main_or_no_hooks(config, prepared_run=prepared_run, model=model, stop=stop, reporter=reporter)
    if not prepared_run.runtime.is_sharded and not prepared_run.runtime.zero_stage:
        return hooks
    return ShardedHooks(
        hooks=hooks,
        runtime=prepared_run.runtime,
        denoiser=model.denoiser,
        optimizer=model.optimizer,
        weights=model.trained.weights,
    )


def _main_or_no_hooks(
    config: RunConfig, *, prepared_run: PreparedRun, model: TrainingSetup, stop: StopSignal, reporter: Reporter
) -> MainRankHooks | NoHooks:
    if prepared_run.runtime.rank != 0:
        return NoHooks()
    output_dir = config.run.output_folder
    content = CheckpointContent(
        trained=model.trained,
        optimizer=model.optimizer,
        average=model.average,
        metadata=provenance(
            prepared_run.parts, family=prepared_run.family.facts, trained=model.trained, text=config.text
        ),
    )
    writer = CheckpointWriter(
        output_dir=output_dir,
        keep=config.checkpoint.checkpoints_total_limit,
        content=content,
        configuration=configuration_of(config),
        foundations=run_inputs(prepared_run),
        reporter=reporter,
    )
    return MainRankHooks(
        writer=writer,
        evaluators=make_evaluators(config, prepared_run=prepared_run, model=model, stop=stop, reporter=reporter),
        average=model.average,
        trigger_file=output_dir / VALIDATE_NOW,
        reporter=reporter,
    )


def make_evaluators(
    config: RunConfig, *, prepared_run: PreparedRun, model: TrainingSetup, stop: StopSignal, reporter: Reporter
) -> tuple[Evaluator, ...]:
    """The validation loss and the validation images; add a metric of your own here."""
    return (
        _loss_validator(config, prepared_run=prepared_run, model=model, stop=stop, reporter=reporter),
        _image_validator(config, prepared_run=prepared_run, model=model, stop=stop, reporter=reporter),
    )


def _loss_validator(
    config: RunConfig, *, prepared_run: PreparedRun, model: TrainingSetup, stop: StopSignal, reporter: Reporter
) -> LossValidator:
    keeps_base = config.model.model_type != "full"
    return LossValidator(
        when=Interval(steps=config.held_out.eval_steps_interval or _validation_steps(config)),
        datasets=prepared_run.held_out,
        text=model.text.lookup,
        step_context=model.step_context,
        denoiser=model.denoiser,
        average=model.average if config.ema.use_ema or config.optimizer.averages else None,
        as_base=model.trained.as_base if keeps_base else None,
        batch_size=config.run.train_batch_size,
        seed=config.run.seed,
        base_identity=prepared_run.parts.identity,
        output_dir=config.run.output_folder,
        stop=stop,
        reporter=reporter,
    )


def _image_validator(
    config: RunConfig, *, prepared_run: PreparedRun, model: TrainingSetup, stop: StopSignal, reporter: Reporter
) -> ImageValidator:
    return ImageValidator(
        when=Interval(steps=_validation_steps(config), epochs=config.validation.validation_epochs),
        options=config.validation,
        family=prepared_run.family,
        parts=prepared_run.parts,
        denoiser=model.denoiser,
        weights=validation_weights(model.average, config.ema),
        autocast=prepared_run.runtime.autocast,
        latent_part=prepared_run.latent_part,
        needs=partial(
            memory_needs, config, prepared_run.files, prepared=prepared_run, catalogs=prepared_run.catalogs.values()
        ),
        embedding=model.text.lookup.embedding,
        output_dir=config.run.output_folder,
        stop=stop,
        reporter=reporter,
    )


def _validation_steps(config: RunConfig) -> int:
    return config.validation.validation_steps or config.checkpoint.checkpointing_steps


def run_inputs(prepared_run: PreparedRun) -> RunInputs:
    """What a checkpoint of this run depends on besides its configuration."""
    return RunInputs(
        base_model=prepared_run.parts.name,
        base_identity=prepared_run.parts.identity,
        world_size=prepared_run.runtime.world_size,
        datasets=dataset_fingerprints(list(prepared_run.catalogs.values())),
        dataset_settings=relevant_dataset_settings(prepared_run.files),
        quantized_layers=ARITHMETIC,
    )
