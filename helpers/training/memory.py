"""What a run needs of the device's memory, and, where that is not there, which settings take less of it."""

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
"""As many as the largest model has; fewer there are no harm."""

ENCODING = "encoding images and captions"
TRAINING = "training"
VALIDATING = "drawing validation images"
FIXES_NAMED = 6
MOST_LETTERS = 200
COARSER = {"no_change": "int8-quanto", "int8-quanto": "int4-quanto"}
LEAST_SHARE = 0.01
"""Of what is needed: a setting that saves less is not worth naming."""

LARGEST_SMALL = 512
"""An edge in pixels: an image of more than a megapixel is decoded in tiles of one, so that half of it saves little."""


@dataclass(frozen=True, kw_only=True)
class MemoryNeeds:
    """What a run is, as far as memory goes, and how that is estimated."""

    workload: Workload
    estimate_for: Callable[[Workload], MemoryEstimate]

    @property
    def estimate(self) -> MemoryEstimate:
        return self.estimate_for(self.workload)

    def suggestions(self, doing: str) -> list[str]:
        """A line for each setting that takes less while `doing`, the one that saves most first."""
        needed = _peak(self.estimate, doing)
        saved = [
            (needed - _peak(self.estimate_for(less), doing), words) for words, less in cheaper_variants(self.workload)
        ]
        worth = sorted((each for each in saved if each[0] > LEAST_SHARE * needed), reverse=True)
        return [f"{words}: about {format_bytes(size)} less" for size, words in worth[:FIXES_NAMED]]


def memory_needs(
    config: RunConfig, files: DatasetFile, *, place: RunContext | PreparedRun, catalogs: Iterable[Catalog]
) -> MemoryNeeds:
    """The needs of a run over `catalogs`, on the device that `place` knows."""
    sizes = [bucket.size for catalog in catalogs for bucket in catalog.buckets]
    largest = max(sizes, key=lambda size: size.width * size.height)
    workload = Workload.from_config(
        config,
        device=place.runtime.device.type,
        precision=place.runtime.precision,
        threads=torch.get_num_threads(),
        width=largest.width,
        height=largest.height,
        vae_batch_size=max(dataset.vae_batch_size for dataset in files.all_images),
    )
    family, parts = place.family, place.parts
    return MemoryNeeds(workload=workload, estimate_for=lambda workload: family.estimate_memory(parts, workload))


@contextmanager
def explain_out_of_memory(doing: str, needs: Callable[[], MemoryNeeds]) -> Iterator[None]:
    """Within it, where memory does not suffice a TrainingError is raised that says what takes less.

    doing: `ENCODING`, `TRAINING` or `DRAWING`.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        fixes = needs().suggestions(doing)
        lines = "\n".join(f"  {line}" for line in fixes)
        words = f"Each of these takes less, the most first:\n{lines}" if fixes else "No setting takes much less of it."
        said = shorten(str(error), MOST_LETTERS, placeholder=" …") or "none is left"
        raise TrainingError(f"Out of memory while {doing}: {said}\n{words}") from error


def cheaper_variants(workload: Workload) -> Iterator[tuple[str, Workload]]:
    """Every setting that can be turned down from where it is, in words, with what the run then is."""
    precision, full = workload.precision, workload.model_type == "full"
    if not workload.gradient_checkpointing:
        yield "USE_GRADIENT_CHECKPOINTING=true", replace(workload, gradient_checkpointing=True)
    if workload.batch_size > 1:
        more = workload.batch_size * workload.accumulation
        words = f"TRAIN_BATCH_SIZE=1, with GRADIENT_ACCUMULATION_STEPS={more} for steps of as many images"
        yield words, replace(workload, batch_size=1, accumulation=more)
    if not full and (coarser := COARSER.get(precision.base_model_precision)):
        less = replace(precision, base_model_precision=coarser)
        yield f"BASE_MODEL_PRECISION={coarser}", replace(workload, precision=less)
    if precision.mixed_precision == "no" and workload.device == "cuda":
        yield "MIXED_PRECISION=bf16", replace(workload, precision=replace(precision, mixed_precision="bf16"))
    if full:
        yield from _turned_down_in_full(workload)
    elif workload.optimizer != "adafactor":
        yield "OPTIMIZER=adafactor", replace(workload, optimizer="adafactor")
    yield from _turned_down_elsewhere(workload)
    yield (
        "a RESOLUTION, or one in the dataset file, at which images have half as many points",
        replace(workload, width=round(workload.width * 0.5**0.5), height=round(workload.height * 0.5**0.5)),
    )
    if workload.keeps_vae:
        yield "KEEP_VAE_LOADED=false", replace(workload, keeps_vae=False)
    if workload.trains_text:
        yield "TRAIN_TEXT_ENCODER=false", replace(workload, trains_text=False)
    yield from _turned_down_beside(workload)


def _turned_down_elsewhere(workload: Workload) -> Iterator[tuple[str, Workload]]:
    """What can wait in the processor's memory, where the device has one of its own."""
    if workload.checkpointing_interval > 1:
        yield "GRADIENT_CHECKPOINTING_INTERVAL=1", replace(workload, checkpointing_interval=1)
    visits = workload.model_type == "lora" and workload.gradient_checkpointing and workload.checkpointing_interval == 1
    if workload.device != "cpu" and visits and not workload.offload_blocks:
        yield f"OFFLOAD_BLOCKS={ALL_BLOCKS}", replace(workload, offload_blocks=ALL_BLOCKS)


def _turned_down_in_full(workload: Workload) -> Iterator[tuple[str, Workload]]:
    if workload.optimizer != "adamw_bf16":
        in_bf16 = replace(workload.precision, base_model_default_dtype="bf16")
        yield "OPTIMIZER=adamw_bf16", replace(workload, optimizer="adamw_bf16", precision=in_bf16)
    if not workload.fused_backward and workload.optimizer in FUSABLE_OPTIMIZERS and workload.accumulation == 1:
        yield "FUSED_BACKWARD=true with MAX_GRAD_NORM=0", replace(workload, fused_backward=True)
    yield "MODEL_TYPE=lora", replace(workload, model_type="lora", optimizer="adamw")


def _turned_down_beside(workload: Workload) -> Iterator[tuple[str, Workload]]:
    """What training itself does not use: the encoders and the images drawn."""
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
    """In bytes, without what the libraries take, which no setting turns down."""
    peaks = {
        ENCODING: estimate.caching_bytes,
        TRAINING: estimate.training_bytes,
        VALIDATING: estimate.validation_bytes,
    }
    return peaks[doing] - estimate.overhead_bytes
