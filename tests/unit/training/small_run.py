"""A whole run of a model of a few numbers, in this process or, as `python -m`, in one of its own that can be killed."""

import argparse
import contextlib
import dataclasses
import math
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions, PrecisionOptions
from helpers.config.options.training import CheckpointOptions, ObjectiveOptions, OptimizerOptions, RunOptions
from helpers.data.types import Bucket, Size
from helpers.dataloader.rng import generator
from helpers.dataloader.sampler import SampleOrder
from helpers.dataloader.types import Position, TrainBatch
from helpers.models.adapters.lora import LORA_FILE, load_lora, lora_disabled, save_lora
from helpers.models.adapters.trainable import Trainable
from helpers.reporting.events import Event
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.checkpoint import (
    CheckpointContent,
    CheckpointWriter,
    clear_partial_checkpoints,
    find_checkpoint,
    restore_optimizer_state,
    restore_trained,
)
from helpers.training.checkpoint.manifest import RunInputs
from helpers.training.checkpoint.resume import starting_state
from helpers.training.distributed.runtime import open_runtime
from helpers.training.loop import train
from helpers.training.optim.ema import NoAverage
from helpers.training.optim.optimizers import make_optimizer
from helpers.training.plan import LoopPlan, StepInfo, TrainState, plan_run
from helpers.training.signals import Interrupted, StopSignal, handle_signals
from helpers.training.step import StepContext

CHANNELS = 16
LORA = LoraOptions(lora_rank=2)
FOUNDATIONS = RunInputs(base_model="small", base_identity="0", world_size=1, datasets={"a": "5 images, 0"})


class SmallDenoiser(nn.Module):
    """A frozen matrix with an adapter beside it, applied to every latent pixel."""

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        draw = generator(0, "small denoiser")
        self.base = nn.Parameter(torch.randn(CHANNELS, CHANNELS, generator=draw), requires_grad=False)
        self.lora_a = nn.Parameter(torch.randn(2, CHANNELS, generator=draw))
        self.lora_b = nn.Parameter(torch.zeros(CHANNELS, 2))
        self.dropout = nn.Dropout(dropout)

    def forward(self, noisy: Tensor) -> Tensor:
        pixels = noisy.movedim(1, -1)
        adapted = pixels @ self.base.T + self.dropout(pixels) @ self.lora_a.T @ self.lora_b.T
        return adapted.movedim(-1, 1)

    def weights(self) -> dict[str, nn.Parameter]:
        return {"transformer.a.lora_A.weight": self.lora_a, "transformer.a.lora_B.weight": self.lora_b}


def predict(
    denoiser: nn.Module,
    noisy: Tensor,
    sigmas: Tensor,
    prompt_embeds: Tensor,
    pooled: Tensor,
    tokens: Tensor | None = None,
) -> Tensor:
    return denoiser(noisy)


def small_trained(denoiser: SmallDenoiser, *, kill_at_save: int = 0) -> Trainable:
    """The adapter of `denoiser`, which kills the process after it was written at the step named."""
    weights = denoiser.weights()

    def save(folder: Path, *, metadata: Mapping[str, str]) -> None:
        save_lora(folder / LORA_FILE, weights, lora=LORA, metadata=metadata)
        if kill_at_save and folder.name.startswith(f".checkpoint-{kill_at_save}."):
            os.kill(os.getpid(), signal.SIGKILL)

    return Trainable(
        summary="an adapter",
        weights=weights,
        metadata={},
        save=save,
        load=lambda folder: load_lora(folder / LORA_FILE, into=weights),
        as_base=lora_disabled,
        output_name=LORA_FILE,
        export=lambda file, *, metadata: save_lora(file, weights, lora=LORA, metadata=metadata),
    )


def small_order(*, batch_size: int = 2, world_size: int = 1) -> SampleOrder:
    bucket = Bucket(dataset_id="a", size=Size(64, 64), images=np.arange(5), repeats=0)
    return SampleOrder([bucket], seed=0, batch_size=batch_size, world_size=world_size)


def batch_at(
    position: Position, *, batch_size: int = 2, rank: int = 0, spoilt: bool = False, by: float = math.nan
) -> TrainBatch:
    """A batch that is a function of its position, as the loader's are."""
    draws = [
        generator(0, "batch", position.epoch, position.batch, rank * batch_size + slot) for slot in range(batch_size)
    ]
    latents = torch.stack([torch.randn(CHANNELS, 4, 4, generator=draw) for draw in draws])
    return TrainBatch(
        position=position,
        latents=latents * by if spoilt else latents,
        noise=torch.stack([torch.randn(CHANNELS, 4, 4, generator=draw) for draw in draws]),
        sigmas=torch.stack([torch.rand((), generator=draw) for draw in draws]),
        prompt_embeds=torch.zeros(batch_size, 1, 1),
        pooled=torch.zeros(batch_size, 1),
        paths=tuple(f"a: {position.epoch}-{position.batch}-{slot}.png" for slot in range(batch_size)),
        dropout_seed=1000 * position.epoch + position.batch,
    )


def batches_from(
    position: Position,
    *,
    order: SampleOrder,
    seconds: float = 0.0,
    rank: int = 0,
    spoilt: str = "",
    by: float = math.nan,
) -> Iterator[TrainBatch]:
    """spoilt: epoch and batch of one whose latents are multiplied `by` that."""
    while True:
        time.sleep(seconds)
        is_spoilt = f"{position.epoch}-{position.batch}" == spoilt
        yield batch_at(position, batch_size=order.batch_size, rank=rank, spoilt=is_spoilt, by=by)
        position = order.next_position(position)


class Events(list[Event]):
    """A listener that remembers."""

    def handle(self, event: Event) -> None:
        self.append(event)

    def close(self) -> None:
        """Nothing to close."""


def small_plan(
    order: SampleOrder, *, steps: int, accumulation: int = 1, save_every: int = 2, **options: Any
) -> LoopPlan:
    run = RunOptions(max_train_steps=steps, gradient_accumulation_steps=accumulation)
    return plan_run(
        order,
        run=run,
        optimizer=OptimizerOptions(**options),
        checkpoint=CheckpointOptions(checkpointing_steps=save_every),
    )


def small_learner(denoiser: SmallDenoiser, *, mixed_precision: str = "no", **objective: Any) -> StepContext:
    runtime = open_runtime(PrecisionOptions(mixed_precision=mixed_precision), RunOptions(torch_num_threads=1))
    return StepContext(
        runtime=runtime,
        denoiser=runtime.prepare(denoiser),
        weights=denoiser.weights(),
        predict=predict,
        as_base=lora_disabled,
        objective=ObjectiveOptions(**objective),
        sigma_edges=(0.0, 0.5, 1.0),
    )


@dataclasses.dataclass(kw_only=True)
class SavingOnly:
    """TrainingHooks of a run that draws nothing."""

    writer: CheckpointWriter

    def save(self, state: TrainState, *, keep_all: bool = False) -> None:
        self.writer.save(state, keep_all=keep_all)

    def on_step_end(self, step: int) -> None:
        """Nothing to average."""

    def validate(self, info: StepInfo) -> None:
        """Nothing to draw."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallRun:
    """What a run is told."""

    output: Path
    steps: int = 6
    accumulation: int = 2
    save_every: int = 2
    optimizer: str = "adamw"
    dropout: float = 0.0
    keep: int = 3
    batch_seconds: float = 0.0
    kill_at_save: int = 0
    spoilt_batch: str = ""
    spoilt_by: float = math.nan
    fused_backward: bool = False
    learning_rate: float = 0.1

    def run(self, stop: StopSignal, events: Events) -> dict[str, Tensor]:
        """Continue from the latest checkpoint and train; the final weights."""
        reporter = Reporter([events])
        denoiser = SmallDenoiser(dropout=self.dropout)
        step_context = small_learner(denoiser)
        order = small_order()
        options = OptimizerOptions(optimizer=self.optimizer, learning_rate=self.learning_rate)
        optimizer = make_optimizer(options, weights=step_context.weights, seed=0)
        trained = small_trained(denoiser, kill_at_save=self.kill_at_save)
        configuration = {"lora": {"lora_rank": 2}}
        clear_partial_checkpoints(self.output, reporter=reporter)
        checkpoint = find_checkpoint(self.output, "latest", reporter=reporter)
        state = starting_state(
            checkpoint, configuration=configuration, foundations=FOUNDATIONS, order=order, reporter=reporter
        )
        if checkpoint is not None:
            restore_trained(checkpoint, trained=trained)
            restore_optimizer_state(checkpoint, weights=trained.weights, optimizer=optimizer)
        writer = CheckpointWriter(
            output_dir=self.output,
            keep=self.keep,
            content=CheckpointContent(trained=trained, optimizer=optimizer, average=NoAverage(), metadata={}),
            configuration=configuration,
            foundations=FOUNDATIONS,
            reporter=reporter,
        )
        train(
            step_context,
            optimizer=optimizer,
            state=state,
            batches=batches_from(
                state.position, order=order, seconds=self.batch_seconds, spoilt=self.spoilt_batch, by=self.spoilt_by
            ),
            plan=small_plan(
                order,
                steps=self.steps,
                accumulation=self.accumulation,
                save_every=self.save_every,
                learning_rate=self.learning_rate,
                lr_scheduler="linear",
                fused_backward=self.fused_backward,
                max_grad_norm=0.0 if self.fused_backward else 1.0,
            ),
            hooks=SavingOnly(writer=writer),
            stop=stop,
            reporter=reporter,
        )
        return {name: weight.detach().clone() for name, weight in step_context.weights.items()}


class Lines(Events):
    """A listener that prints each event's name, for whoever watches the process."""

    def handle(self, event: Event) -> None:
        sys.stdout.write(f"{type(event).__name__} {getattr(event, 'step', '')}\n")
        sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser()
    for field in dataclasses.fields(SmallRun):
        parser.add_argument(f"--{field.name}", type=field.type, default=argparse.SUPPRESS)  # type: ignore[arg-type]
    run = SmallRun(**vars(parser.parse_args()))
    with handle_signals() as stop:
        with contextlib.suppress(Interrupted):
            run.run(stop, Lines())
        try:
            stop.raise_if_requested()
        except Interrupted as interrupted:
            return interrupted.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
