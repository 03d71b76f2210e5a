"""Puts together what a run is made of, from the whole configuration to the options of each part, and takes it down.

With train.py the only place below which nothing knows the whole configuration.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.optim import Optimizer

from helpers.config.options.training import RunOptions
from helpers.config.train_config import RunConfig
from helpers.data.types import Catalog
from helpers.dataloader.epoch_plan import first_epoch, mix
from helpers.dataloader.loader import BatchBuilder
from helpers.dataloader.sampler import SampleOrder
from helpers.errors import TrainingError
from helpers.models.adapters.registry import build_trainable, describe
from helpers.models.adapters.trainable import Trainable
from helpers.models.quantized_weight import ARITHMETIC
from helpers.reporting.events import Change, Notice, RunStarted
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter
from helpers.training.averages import make_weight_average
from helpers.training.callbacks import VALIDATE_NOW, MainRankHooks, NoHooks
from helpers.training.checkpoint.checkpoint import (
    Checkpoint,
    CheckpointContent,
    CheckpointWriter,
    clear_partial_checkpoints,
    find_checkpoint,
    restore_optimizer_state,
    restore_trained,
)
from helpers.training.checkpoint.compatibility import compare
from helpers.training.checkpoint.config_changes import relevant_dataset_settings
from helpers.training.checkpoint.manifest import RunInputs, configuration_of, dataset_fingerprints
from helpers.training.checkpoint.provenance import provenance
from helpers.training.checkpoint.resume import starting_state
from helpers.training.conditioning import TextConditioning, build_conditioning
from helpers.training.divided import ShardedHooks, shard_weights
from helpers.training.loop import LoopPlan, TrainingHooks
from helpers.training.memory import memory_needs
from helpers.training.moments import Interval
from helpers.training.optim.ema import WeightAverage, validation_weights
from helpers.training.optim.zero import wrap_model_and_optimizer
from helpers.training.performance import apply_performance_options
from helpers.training.plan import plan_run
from helpers.training.preparation.prepare import PreparedRun
from helpers.training.room import check_checkpoint_space, checkpoint_bytes
from helpers.training.sigma_losses import sigma_quantiles
from helpers.training.signals import StopSignal
from helpers.training.state import TrainState
from helpers.training.step import StepContext
from helpers.training.validation.images import ImageValidator
from helpers.training.validation.loss import LossValidator

BUCKETS_NAMED = 12


@dataclass(frozen=True, kw_only=True)
class TrainingSetup:
    """What learns; `denoiser` is the bare module, which the learner's may wrap. started: by `time.monotonic`."""

    learner: StepContext
    trained: Trainable
    denoiser: nn.Module
    text: TextConditioning
    optimizer: Optimizer
    average: WeightAverage
    started: float


def make_sampler(catalogs: Iterable[Catalog], *, run: RunOptions, world_size: int) -> SampleOrder:
    """The order of all images."""
    buckets = [bucket for catalog in catalogs for bucket in catalog.buckets]
    return SampleOrder(buckets, seed=run.seed, batch_size=run.train_batch_size, world_size=world_size)


def log_buckets(order: SampleOrder, reporter: Reporter) -> None:
    """A line for each bucket that says what it gives, and one for what they make together."""
    plans = first_epoch(order)
    for each in plans[:BUCKETS_NAMED]:
        reporter.handle(Notice(text=str(each)))
    if len(plans) > BUCKETS_NAMED:
        reporter.handle(Notice(text=f"and {len(plans) - BUCKETS_NAMED} buckets more"))
    if mixed := mix(order):
        reporter.handle(Notice(text=mixed))


def make_plan(config: RunConfig, *, order: SampleOrder, start: TrainState | None = None) -> LoopPlan:
    """How long the run over `order` is, and when its duties are due; see `plan_run`."""
    return plan_run(order, run=config.run, optimizer=config.optimizer, checkpoint=config.checkpoint, start=start)


def starting_point(
    config: RunConfig, *, ground: PreparedRun, order: SampleOrder, reporter: Reporter
) -> tuple[Checkpoint | None, TrainState]:
    """What the run continues from, and where that stands; None and the beginning for a new one.

    Raises CheckpointError where the checkpoint asked for is not there, or belongs to another run.
    """
    output_dir = config.run.output_folder
    if ground.runtime.rank == 0:
        clear_partial_checkpoints(output_dir, reporter=reporter)
    ground.runtime.barrier()
    checkpoint = find_checkpoint(output_dir, config.checkpoint.resume_from_checkpoint, reporter=reporter)
    state = starting_state(
        checkpoint,
        configuration=configuration_of(config),
        foundations=run_inputs(ground),
        order=order,
        reporter=reporter,
    )
    return checkpoint, state


def batch_source(config: RunConfig, *, ground: PreparedRun, model: TrainingSetup, order: SampleOrder) -> BatchBuilder:
    """What makes this rank's batches."""
    return BatchBuilder(
        order=order,
        catalogs=ground.catalogs,
        latents=ground.latents,
        mirrored=ground.mirrored,
        text=ground.text,
        tokens=model.text.tokens,
        objective=config.objective,
        model_shift=ground.parts.flow_shift,
        caption_dropout_probability=config.run.caption_dropout_probability,
        seed=config.run.seed,
        rank=ground.runtime.rank,
    )


def load_model(
    config: RunConfig, *, ground: PreparedRun, checkpoint: Checkpoint | None, reporter: Reporter
) -> TrainingSetup:
    """Load the base, let move what is trained, and put the checkpoint's numbers in, where there is one."""
    started = time.monotonic()
    family, runtime = ground.family, ground.runtime
    precision = runtime.precision.for_training(model_type=config.model.model_type, optimizer=config.optimizer.optimizer)
    with stage(reporter, f"load {ground.parts.variant}", total=1, unit="models") as advance:
        denoiser = family.load_denoiser(ground.parts, precision, runtime.device, waiting=config.speed.offload_blocks)
        advance()
    trained = build_trainable(
        denoiser,
        model_type=config.model.model_type,
        lora=config.lora,
        full=config.full,
        family=family,
        parts=ground.parts,
        seed=config.run.seed,
    )
    text, trained = build_conditioning(
        denoiser, trained=trained, ground=ground, text=config.text, lora=config.lora, run=config.run, reporter=reporter
    )
    reporter.handle(Notice(text=describe(trained)))
    apply_performance_options(denoiser, config.speed, run=config.run, family=family, device=runtime.device)
    if config.optimizer.fused_backward and runtime.world_size > 1:
        raise TrainingError("fused_backward=true moves weights before processes have shared gradients: say false.")
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
        learner=_learner(config, ground=ground, denoiser=ready, trained=trained),
        trained=trained,
        denoiser=denoiser,
        text=text,
        optimizer=optimizer,
        average=average,
        started=started,
    )


def _learner(config: RunConfig, *, ground: PreparedRun, denoiser: nn.Module, trained: Trainable) -> StepContext:
    order = make_sampler(ground.catalogs.values(), run=config.run, world_size=ground.runtime.world_size)
    return StepContext(
        runtime=ground.runtime,
        denoiser=denoiser,
        weights=trained.weights,
        predict=ground.family.predict,
        as_base=trained.as_base,
        objective=config.objective,
        sigma_edges=sigma_quantiles(config.objective, order=order, model_shift=ground.parts.flow_shift),
    )


def check_space_for_checkpoints(config: RunConfig, *, model: TrainingSetup, saves: int) -> None:
    """See `check_checkpoint_space`; saves: how often the run will still save."""
    size = checkpoint_bytes(
        model.learner.weights.values(), optimizer=config.optimizer.optimizer, keeps_average=config.ema.use_ema
    )
    keep = config.checkpoint.checkpoints_total_limit
    check_checkpoint_space(config.run.output_folder, each_bytes=size, saves=saves, keep=keep)


def make_hooks(
    config: RunConfig, *, ground: PreparedRun, model: TrainingSetup, stop: StopSignal, reporter: Reporter
) -> TrainingHooks:
    """What this rank does between steps."""
    duties = _duties_of(config, ground=ground, model=model, stop=stop, reporter=reporter)
    if not ground.runtime.is_sharded and not ground.runtime.zero_stage:
        return duties
    return ShardedHooks(
        hooks=duties,
        runtime=ground.runtime,
        denoiser=model.denoiser,
        optimizer=model.optimizer,
        weights=model.trained.weights,
    )


def _duties_of(
    config: RunConfig, *, ground: PreparedRun, model: TrainingSetup, stop: StopSignal, reporter: Reporter
) -> MainRankHooks | NoHooks:
    if ground.runtime.rank != 0:
        return NoHooks()
    output_dir = config.run.output_folder
    content = CheckpointContent(
        trained=model.trained,
        optimizer=model.optimizer,
        average=model.average,
        metadata=provenance(ground.parts, trained=model.trained, text=config.text),
    )
    writer = CheckpointWriter(
        output_dir=output_dir,
        keep=config.checkpoint.checkpoints_total_limit,
        content=content,
        configuration=configuration_of(config),
        foundations=run_inputs(ground),
        reporter=reporter,
    )
    painter = ImageValidator(
        options=config.validation,
        family=ground.family,
        parts=ground.parts,
        denoiser=model.denoiser,
        weights=validation_weights(model.average, config.ema),
        autocast=ground.runtime.autocast,
        latent_part=ground.latent_part,
        needs=partial(memory_needs, config, ground.files, place=ground, catalogs=ground.catalogs.values()),
        embedding=model.text.lookup.embedding,
        output_dir=output_dir,
        stop=stop,
        reporter=reporter,
    )
    draw_every = config.validation.validation_steps or config.checkpoint.checkpointing_steps
    return MainRankHooks(
        writer=writer,
        painter=painter,
        image_interval=Interval(steps=draw_every, epochs=config.validation.validation_epochs),
        held_out=_held_out(config, ground=ground, model=model, stop=stop, reporter=reporter),
        loss_interval=Interval(steps=config.held_out.eval_steps_interval or draw_every),
        average=model.average,
        trigger_file=output_dir / VALIDATE_NOW,
    )


def _held_out(
    config: RunConfig, *, ground: PreparedRun, model: TrainingSetup, stop: StopSignal, reporter: Reporter
) -> LossValidator:
    keeps_base = config.model.model_type != "full"
    return LossValidator(
        datasets=ground.kept_back,
        text=model.text.lookup,
        learner=model.learner,
        denoiser=model.denoiser,
        average=model.average if config.ema.use_ema or config.optimizer.averages else None,
        as_base=model.trained.as_base if keeps_base else None,
        batch_size=config.run.train_batch_size,
        seed=config.run.seed,
        base_identity=ground.parts.identity,
        output_dir=config.run.output_folder,
        stop=stop,
        reporter=reporter,
    )


def run_started(
    config: RunConfig,
    *,
    ground: PreparedRun,
    model: TrainingSetup,
    checkpoint: Checkpoint | None,
    state: TrainState,
    plan: LoopPlan,
) -> RunStarted:
    """What this run is, and what has changed since `checkpoint`, for whoever listens."""
    configuration = configuration_of(config)
    changes: tuple[Change, ...] = ()
    if checkpoint is not None:
        found = compare(
            checkpoint.manifest,
            configuration=configuration,
            foundations=run_inputs(ground),
            folder=str(checkpoint.folder),
        )
        changes = found.announced
    return RunStarted(
        base_model=ground.parts.name,
        model_type=config.model.model_type,
        trainable_parameters=sum(weight.numel() for weight in model.learner.weights.values()),
        settings=configuration,
        datasets={dataset_id: len(catalog) for dataset_id, catalog in ground.catalogs.items()},
        output_dir=config.run.output_folder,
        first_step=state.step,
        total_steps=plan.total_steps,
        changes=changes,
        base_variant=ground.parts.variant,
        base_folder=ground.parts.transformer.parent,
        trained=model.trained.summary,
        result=model.trained.output_name,
    )


def run_inputs(ground: PreparedRun) -> RunInputs:
    """What a checkpoint of this run stands on."""
    return RunInputs(
        base_model=ground.parts.name,
        base_identity=ground.parts.identity,
        world_size=ground.runtime.world_size,
        datasets=dataset_fingerprints(list(ground.catalogs.values())),
        dataset_settings=relevant_dataset_settings(ground.files),
        quantized_layers=ARITHMETIC,
    )
