"""Reports what a run would do and need, without loading a model: `--dry_run`."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from helpers.cache.text import token_counts
from helpers.config.datasets.file import DatasetFile
from helpers.data.columns import printable
from helpers.data.rejections import NAMES_SHOWN
from helpers.data.sources.open import open_cache
from helpers.data.types import Catalog
from helpers.dataloader.epoch_plan import first_epoch, mix
from helpers.dataloader.sampler import SampleOrder
from helpers.files import atomic_write
from helpers.models.memory import MemoryEstimate
from helpers.reporting.events import Notice
from helpers.reporting.format import format_bytes, format_count, format_number
from helpers.reporting.reporter import Reporter
from helpers.training.disk_space import CacheNeed, free_bytes
from helpers.training.plan import LoopPlan
from helpers.training.preparation.prepare import RunContext

LEFT_OUT_FILE = "left_out.txt"
TRUNCATED_LISTED = 3
CAPTION_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class TruncatedCaptions:
    """The captions that a tokenizer truncates, as (tokens, caption), the longest first."""

    tokenizer: str
    limit: int
    total: int
    captions: tuple[tuple[int, str], ...]


def truncated_captions(files: DatasetFile, *, context: RunContext) -> tuple[TruncatedCaptions, ...]:
    """The captions that each tokenizer truncates; loads only tokenizers, and those only for new captions."""
    store = open_cache(files.text_embeds)
    found = []
    for limit in (part.limit for part in context.text_parts if part.limit is not None):
        counts = token_counts(context.captions, limit=limit, store=store).tolist()
        long = [(n, caption) for n, caption in zip(counts, context.captions, strict=True) if n > limit.tokens]
        ordered = tuple(sorted(long, key=lambda each: (-each[0], each[1])))
        found.append(
            TruncatedCaptions(tokenizer=limit.name, limit=limit.tokens, total=len(context.captions), captions=ordered)
        )
    return tuple(found)


def log_plan(
    *,
    catalogs: Sequence[Catalog],
    order: SampleOrder,
    plan: LoopPlan,
    truncated: Sequence[TruncatedCaptions],
    needs: Sequence[CacheNeed],
    estimate: MemoryEstimate,
    device: torch.device,
    output_dir: Path,
    reporter: Reporter,
) -> None:
    """Report the whole plan, one section per topic."""
    sections = {
        "Images": [*_images(catalogs, output_dir)],
        "Buckets, in the first epoch": [*_buckets(order)],
        "Captions": [line for each in truncated for line in _captions(each)],
        "Steps": [*_steps(plan)],
        "Caches": [*_caches(needs)],
        "Memory, estimated": [*_memory(estimate, device)],
    }
    for title, lines in sections.items():
        reporter.handle(Notice(text="\n".join(["", title, *(f"  {line}" for line in lines)])))
    reporter.handle(Notice(text="\nThis was a dry run: nothing was encoded or trained. Start it without --dry_run."))


def _images(catalogs: Sequence[Catalog], output_dir: Path) -> Iterator[str]:
    for catalog in catalogs:
        left_out = f", {len(catalog.rejected):,} left out" if catalog.rejected else ""
        yield f"{catalog.dataset_id}: {format_count(len(catalog), 'images')}{left_out}"
        for image in catalog.rejected[:NAMES_SHOWN]:
            yield f"  {printable(image.path)} {image.reason}"
    lines = [f"{each.dataset_id}: {printable(p.path)} {p.reason}\n" for each in catalogs for p in each.rejected]
    if any(len(catalog.rejected) > NAMES_SHOWN for catalog in catalogs):
        path = output_dir / LEFT_OUT_FILE
        atomic_write(path, lambda partial: partial.write_text("".join(lines), encoding="utf-8"))
        yield f"all images left out: {path}"


def _buckets(order: SampleOrder) -> Iterator[str]:
    yield from map(str, first_epoch(order))
    if mixed := mix(order):
        yield mixed


def _captions(found: TruncatedCaptions) -> Iterator[str]:
    if not found.captions:
        yield f"{found.tokenizer} reads {found.limit} tokens: none of {format_count(found.total, 'captions')} is longer"
        return
    longest = found.captions[0][0]
    are = "is" if len(found.captions) == 1 else "are"
    yield (
        f"{found.tokenizer} reads {found.limit} tokens: {len(found.captions):,} of "
        f"{format_count(found.total, 'captions')} {are} longer and truncated, the longest has {longest}"
    )
    for tokens, caption in found.captions[:TRUNCATED_LISTED]:
        shown = caption if len(caption) <= CAPTION_SHOWN_CHARACTERS else caption[: CAPTION_SHOWN_CHARACTERS - 1] + "…"
        yield f"  {tokens}: {printable(shown)!r}"


def _steps(plan: LoopPlan) -> Iterator[str]:
    images = format_count(plan.images_per_step, "images")
    yield f"{plan.total_steps:,} in all, of {images} each; {format_number(plan.steps_per_epoch)} an epoch"
    epochs = format_number(plan.total_steps / plan.steps_per_epoch)
    yield f"so {epochs} epochs; a checkpoint every {plan.checkpoint_every:,} steps"


def _caches(needs: Sequence[CacheNeed]) -> Iterator[str]:
    for need in needs:
        if need.missing:
            cached = f", {need.total - need.missing:,} are cached" if need.missing < need.total else ""
            missing = format_count(need.missing, need.unit)
            yield f"{need.name}: {missing} to encode, {format_bytes(need.size_bytes)}{cached}"
        else:
            yield f"{need.name}: all {format_count(need.total, need.unit)} cached"
    for folder in dict.fromkeys(need.folder for need in needs):
        needed = sum(need.size_bytes for need in needs if need.folder == folder)
        yield f"{folder}: {format_bytes(needed)} more, of {format_bytes(free_bytes(folder))} free"


def _memory(estimate: MemoryEstimate, device: torch.device) -> Iterator[str]:
    parts = ", ".join(f"{name} {format_bytes(size_bytes)}" for name, size_bytes in vars(estimate.training).items())
    yield f"caching {format_bytes(estimate.caching_bytes)}"
    training, libraries = format_bytes(estimate.training_bytes), format_bytes(estimate.overhead_bytes)
    yield f"training {training}: {parts}, libraries {libraries}"
    if estimate.validation_bytes:
        yield f"validation {format_bytes(estimate.validation_bytes)}"
    available = _memory_of(device)
    verdict = "the run should fit" if estimate.peak_bytes < available else "the run would not fit"
    yield f"{_name_of(device)} has {format_bytes(available)}: {verdict}"


def _memory_of(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this machine"
