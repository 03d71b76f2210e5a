"""Estimates the memory that a run needs, and suggests settings that need less when it runs out."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from textwrap import shorten

import torch

from helpers.config.datasets.file import DatasetFile
from helpers.config.optimizers import FUSABLE_OPTIMIZERS
from helpers.config.train_config import RunConfig
from helpers.data.types import Catalog
from helpers.device import is_out_of_memory
from helpers.errors import TrainingError
from helpers.models.memory import MemoryEstimate, Workload
from helpers.reporting.format import format_bytes
from helpers.training.preparation.prepare import PreparedRun, RunContext

ALL_BLOCKS = 38
"""The blocks of the largest model; a larger number than a model has is allowed."""

ENCODING = "encoding images and captions"
TRAINING = "training"
VALIDATING = "generating validation images"
FIXES_LISTED = 6
MAX_REASON_CHARACTERS = 200
COARSER = {"no_change": "int8-quanto", "int8-quanto": "int4-quanto"}
LEAST_SHARE = 0.01
"""Relative to what is needed: settings that save less are not listed."""

LARGEST_SMALL = 512
"""An edge in pixels: images above a megapixel are decoded in tiles, so halving them saves little."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeeds:
    """A run's workload and how its memory is estimated."""

    workload: Workload
    estimate_for: Callable[[Workload], MemoryEstimate]

    @property
    def estimate(self) -> MemoryEstimate:
        return self.estimate_for(self.workload)

    def suggestions(self, doing: str) -> list[str]:
        """A line for each setting that saves memory while `doing`, the largest saving first."""
        needed = _peak(self.estimate, doing)
        saved = [
            (needed - _peak(self.estimate_for(less), doing), words) for words, less in cheaper_variants(self.workload)
        ]
        worth = sorted((each for each in saved if each[0] > LEAST_SHARE * needed), reverse=True)
        return [f"{words}: about {format_bytes(size)} less" for size, words in worth[:FIXES_LISTED]]


def memory_needs(
    config: RunConfig, files: DatasetFile, *, prepared: RunContext | PreparedRun, catalogs: Iterable[Catalog]
) -> MemoryNeeds:
    """The memory needs of a run over `catalogs`, on the device of `prepared`."""
    sizes = [bucket.size for catalog in catalogs for bucket in catalog.buckets]
    largest = max(sizes, key=lambda size: size.width * size.height)
    workload = Workload.from_config(
        config,
        device=prepared.runtime.device.type,
        precision=prepared.runtime.precision,
        threads=torch.get_num_threads(),
        width=largest.width,
        height=largest.height,
        vae_batch_size=max(dataset.vae_batch_size for dataset in files.all_images),
    )
    family, parts = prepared.family, prepared.parts
    return MemoryNeeds(workload=workload, estimate_for=lambda workload: family.estimate_memory(parts, workload))


@contextmanager
def explain_out_of_memory(doing: str, needs: Callable[[], MemoryNeeds]) -> Iterator[None]:
    """Within it, running out of memory raises a TrainingError that lists settings that need less.

    doing: `ENCODING`, `TRAINING` or `VALIDATING`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fixes = needs().suggestions(doing)
        lines = "\n".join(f"  {line}" for line in fixes)
        advice = (
            f"Each of these needs less memory, largest saving first:\n{lines}"
            if fixes
            else "No setting needs much less."
        )
        reason = shorten(str(error), MAX_REASON_CHARACTERS, placeholder=" …") or "none is left"
        raise TrainingError(f"Out of memory while {doing}: {reason}\n{advice}") from error


def cheaper_variants(workload: Workload) -> Iterator[tuple[str, Workload]]:
    """Every setting that can be lowered, in words, with the workload it leads to."""
    precision, full = workload.precision, workload.model_type == "full"
    if not workload.gradient_checkpointing:
        yield "USE_GRADIENT_CHECKPOINTING=true", replace(workload, gradient_checkpointing=True)
    if workload.batch_size > 1:
        more = workload.batch_size * workload.accumulation
        words = f"TRAIN_BATCH_SIZE=1, with GRADIENT_ACCUMULATION_STEPS={more} for as many images per step"
        yield words, replace(workload, batch_size=1, accumulation=more)
    if not full and (coarser := COARSER.get(precision.base_model_precision)):
        less = replace(precision, base_model_precision=coarser)
        yield f"BASE_MODEL_PRECISION={coarser}", replace(workload, precision=less)
    if precision.mixed_precision == "no" and workload.device == "cuda":
        yield "MIXED_PRECISION=bf16", replace(workload, precision=replace(precision, mixed_precision="bf16"))
    if full:
        yield from _cheaper_full(workload)
    elif workload.optimizer != "adafactor":
        yield "OPTIMIZER=adafactor", replace(workload, optimizer="adafactor")
    yield from _offloaded(workload)
    yield (
        "a RESOLUTION, or one in the dataset file, at which images have half as many pixels",
        replace(workload, width=round(workload.width * 0.5**0.5), height=round(workload.height * 0.5**0.5)),
    )
    if workload.keeps_vae:
        yield "KEEP_VAE_LOADED=false", replace(workload, keeps_vae=False)
    if workload.trains_text:
        yield "TRAIN_TEXT_ENCODER=false", replace(workload, trains_text=False)
    yield from _cheaper_encoding_and_validation(workload)


def _offloaded(workload: Workload) -> Iterator[tuple[str, Workload]]:
    """What can be offloaded to the CPU's memory, on devices with their own."""
    if workload.checkpointing_interval > 1:
        yield "GRADIENT_CHECKPOINTING_INTERVAL=1", replace(workload, checkpointing_interval=1)
    can_offload = (
        workload.model_type == "lora" and workload.gradient_checkpointing and workload.checkpointing_interval == 1
    )
    if workload.device != "cpu" and can_offload and not workload.offload_blocks:
        yield f"OFFLOAD_BLOCKS={ALL_BLOCKS}", replace(workload, offload_blocks=ALL_BLOCKS)


def _cheaper_full(workload: Workload) -> Iterator[tuple[str, Workload]]:
    if workload.optimizer != "adamw_bf16":
        in_bf16 = replace(workload.precision, base_model_default_dtype="bf16")
        yield "OPTIMIZER=adamw_bf16", replace(workload, optimizer="adamw_bf16", precision=in_bf16)
    if not workload.fused_backward and workload.optimizer in FUSABLE_OPTIMIZERS and workload.accumulation == 1:
        yield "FUSED_BACKWARD=true with MAX_GRAD_NORM=0", replace(workload, fused_backward=True)
    yield "MODEL_TYPE=lora", replace(workload, model_type="lora", optimizer="adamw")


def _cheaper_encoding_and_validation(workload: Workload) -> Iterator[tuple[str, Workload]]:
    """What training itself does not use: encoding and validation."""
    precision = workload.precision
    if workload.vae_batch_size > 1 and workload.device != "cpu":
        yield "VAE_BATCH_SIZE=1, or vae_batch_size in the dataset file", replace(workload, vae_batch_size=1)
    if precision.vae_dtype == "fp32":
        yield "VAE_DTYPE=bf16", replace(workload, precision=replace(precision, vae_dtype="bf16"))
    if precision.text_encoder_precision(3) == "no_change":
        less = replace(precision, text_encoder_3_precision="int8-quanto")
        yield "TEXT_ENCODER_3_PRECISION=int8-quanto", replace(workload, precision=less)
    if workload.validation:
        width, height = (max(64, min(LARGEST_SMALL, edge // 32 * 16)) for edge in workload.validation)
        yield f"VALIDATION_RESOLUTION={width}x{height}", replace(workload, validation=(width, height))
        if workload.guided:
            yield "VALIDATION_GUIDANCE=1", replace(workload, guided=False)


def _peak(estimate: MemoryEstimate, doing: str) -> int:
    """In bytes, without the libraries' overhead, which no setting lowers."""
    peaks = {
        ENCODING: estimate.caching_bytes,
        TRAINING: estimate.training_bytes,
        VALIDATING: estimate.validation_bytes,
    }
    return peaks[doing] - estimate.overhead_bytes
