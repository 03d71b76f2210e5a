"""What the loop costs beyond the arithmetic: its steps beside a bare forward, backward, clip and optimizer step.

`python -m benchmarks.loop [--steps 60] [--batch-size 2] [--threads 2]`, on the CPU. Both work on the same model and the
same batches, taking turns within one run so that a noisy machine troubles them alike; the loop's batches come from the
real loader, out of a dataset of 1,000 images and of 1,000,000. Aim: at most 1.03, whatever the dataset's size. The
second ratio is of processor time, the loader's thread included, which others on the machine do not touch.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from helpers.config.options.model import LoraOptions, ModelOptions, PrecisionOptions
from helpers.config.options.training import CheckpointOptions, ObjectiveOptions, OptimizerOptions, RunOptions
from helpers.data.types import Bucket, Catalog, Size
from helpers.dataloader.loader import BatchBuilder, prefetch
from helpers.dataloader.sampler import SampleOrder
from helpers.dataloader.types import Position, TrainBatch
from helpers.models.adapters.lora import attach_lora, lora_disabled
from helpers.models.family import TextEmbedding
from helpers.models.registry import families
from helpers.models.sd3.tiny import SHAPES, make_tiny_pipeline
from helpers.reporting.console.console import Console
from helpers.reporting.console.displays import PlainDisplay
from helpers.reporting.reporter import Reporter
from helpers.training.distributed.runtime import open_runtime
from helpers.training.loop import train
from helpers.training.optim.optimizers import make_optimizer
from helpers.training.plan import StepInfo, TrainState, plan_run
from helpers.training.signals import StopSignal
from helpers.training.step import StepContext

SHAPE = SHAPES["bench"]
WARM_UP_STEPS = 6
NEVER = 10**9


class CachedLatents:
    """Latents as a warm cache gives them: read-only memory that is there already."""

    def __init__(self) -> None:
        self._all = torch.randn(64, 16, SHAPE.sample_size, SHAPE.sample_size)

    def latents(self, index: int) -> Tensor:
        return self._all[index % 64].clone()


class CachedText:
    """One caption's embedding, 77 tokens of CLIP and as many of T5."""

    def embedding(self, caption: str) -> TextEmbedding:
        width = SHAPE.clip_l_width + SHAPE.clip_g_width
        return TextEmbedding(
            prompt_embeds=torch.ones(154, SHAPE.t5_width, dtype=torch.bfloat16),
            pooled=torch.ones(width, dtype=torch.bfloat16),
        )


class Spent(NamedTuple):
    """Seconds by the clock, and of all processor cores together."""

    wall: float
    processor: float

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.wall - other.wall, self.processor - other.processor)


def now() -> Spent:
    """Since some moment in the past."""
    return Spent(time.perf_counter(), time.process_time())


@dataclass
class TakingTurns:
    """Hands the loop its batches, and takes a bare step on each before or after the loop's own."""

    step_context: StepContext
    optimizer: torch.optim.Optimizer
    bare: list[Spent] = field(default_factory=list)
    ours: list[Spent] = field(default_factory=list)

    def batches(self, source: Iterator[TrainBatch]) -> Iterator[TrainBatch]:
        for number, batch in enumerate(source):
            if number % 2:
                self._bare_step(batch)
            began = now()
            yield batch
            self.ours.append(now() - began)
            if not number % 2:
                self._bare_step(batch)

    def _bare_step(self, batch: TrainBatch) -> None:
        began = now()
        sigmas = batch.sigmas.view(-1, 1, 1, 1)
        noisy = (1 - sigmas) * batch.latents + sigmas * batch.noise
        prediction = self.step_context.denoiser(
            hidden_states=noisy,
            timestep=1000 * batch.sigmas,
            encoder_hidden_states=batch.prompt_embeds.float(),
            pooled_projections=batch.pooled.float(),
            return_dict=False,
        )[0]
        loss = ((prediction - (batch.noise - batch.latents)) ** 2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(self.step_context.weights.values()), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.bare.append(now() - began)


def source_of(images: int, *, batch_size: int, objective: ObjectiveOptions) -> BatchBuilder:
    """The real loader over a dataset of so many images."""
    bucket = Bucket(dataset_id="a", size=Size(256, 256), images=np.arange(images), repeats=0)
    catalog = Catalog(
        dataset_id="a",
        source=None,  # type: ignore[arg-type]  # nothing is decoded
        repeats=0,
        paths=[f"{number}.png" for number in range(images)],
        tags=(),
        size_bytes=np.zeros(0, dtype=np.int64),
        sizes=np.zeros((0, 2), dtype=np.int32),
        geometries=np.zeros((0, 6), dtype=np.int32),
        captions_of=lambda index: ("a caption",),
    )
    return BatchBuilder(
        order=SampleOrder([bucket], seed=0, batch_size=batch_size, world_size=1),
        catalogs={"a": catalog},
        latents={"a": CachedLatents()},
        text=CachedText(),
        objective=objective,
        model_shift=3.0,
        caption_dropout_probability=0.1,
        seed=0,
        rank=0,
    )


class NoDuties:
    """The duties between steps are measured elsewhere."""

    def save(self, state: TrainState) -> None:
        """Nothing is saved."""

    def on_step_end(self, step: int) -> None:
        """Nothing to average."""

    def validate(self, info: StepInfo) -> None:
        """Nothing is drawn."""


def measure(step_context: StepContext, *, images: int, steps: int, batch_size: int) -> TakingTurns:
    """Seconds of each step, bare and the loop's, without those that warm up."""
    optimizer = OptimizerOptions()
    source = source_of(images, batch_size=batch_size, objective=step_context.objective)
    turns = TakingTurns(step_context, make_optimizer(optimizer, weights=step_context.weights, seed=0))
    loaded = prefetch(source, Position(), depth=2)
    with open("/dev/null", "w") as stream:
        train(
            step_context,
            optimizer=turns.optimizer,
            state=TrainState(),
            batches=turns.batches(loaded),
            plan=plan_run(
                source.order,
                run=RunOptions(max_train_steps=steps + WARM_UP_STEPS + 1),
                optimizer=optimizer,
                checkpoint=CheckpointOptions(checkpointing_steps=NEVER),
            ),
            hooks=NoDuties(),
            stop=StopSignal(),
            reporter=Reporter([Console(PlainDisplay(stream))]),
        )
    loaded.close()
    del turns.bare[:WARM_UP_STEPS], turns.ours[:WARM_UP_STEPS]
    return turns


def median(spent: list[Spent]) -> Spent:
    """The median of each figure."""
    return Spent(*(statistics.median(figures) for figures in zip(*spent, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--mixed-precision", default="no", choices=("no", "bf16"))
    arguments = parser.parse_args()
    runtime = open_runtime(
        PrecisionOptions(mixed_precision=arguments.mixed_precision), RunOptions(torch_num_threads=arguments.threads)
    )
    family = families()["sd3"]
    with tempfile.TemporaryDirectory() as folder:
        pipeline = make_tiny_pipeline(Path(folder) / "pipeline", size="bench")
        parts = family.locate(ModelOptions(pretrained_model_name_or_path=str(pipeline)))
        denoiser = family.load_denoiser(parts, runtime.precision, runtime.device)
    weights = attach_lora(denoiser, lora=LoraOptions(), modules=family.lora_modules(denoiser, "attention"), seed=0)
    step_context = StepContext(
        runtime=runtime,
        denoiser=runtime.prepare(denoiser),
        weights=weights,
        predict=family.predict,
        as_base=lora_disabled,
        objective=ObjectiveOptions(),
        sigma_edges=(0.0, 1.0),
    )
    print(f"medians of {arguments.steps} steps")
    print(f"{'images':>10} {'bare s':>8} {'loop s':>8} {'ratio':>6} {'processor':>10}")
    for images in (1_000, 1_000_000):
        turns = measure(step_context, images=images, steps=arguments.steps, batch_size=arguments.batch_size)
        bare, ours = median(turns.bare), median(turns.ours)
        ratios = f"{ours.wall / bare.wall:>6.3f} {ours.processor / bare.processor:>10.3f}"
        print(f"{images:>10,} {bare.wall:>8.3f} {ours.wall:>8.3f} {ratios}", flush=True)


if __name__ == "__main__":
    main()
