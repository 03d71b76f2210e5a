"""Writes `OUTPUT_DIR/datasets.html` if its content has changed."""

from collections.abc import Callable, Sequence
from pathlib import Path

from helpers.data.report.survey import fingerprint, survey
from helpers.data.types import Catalog
from helpers.dataloader.epoch_plan import first_epoch, mix
from helpers.dataloader.sampler import SampleOrder
from helpers.files import atomic_write
from helpers.reporting.events import Notice
from helpers.reporting.pages.datasets_page import CaptionLengths, datasets_page
from helpers.reporting.reporter import Reporter
from helpers.training.preparation.prepare import CacheWorkers

PAGE = "datasets.html"
FIRST_BYTES = 256


LengthsOf = Callable[[Catalog], Sequence[CaptionLengths]]

BUCKETS_LISTED = 12


def log_buckets(order: SampleOrder, reporter: Reporter) -> None:
    """Log a line for each bucket, and one for the mix of datasets."""
    plans = first_epoch(order)
    for each in plans[:BUCKETS_LISTED]:
        reporter.handle(Notice(text=str(each)))
    if len(plans) > BUCKETS_LISTED:
        reporter.handle(Notice(text=f"and {len(plans) - BUCKETS_LISTED} more buckets"))
    if mixed := mix(order):
        reporter.handle(Notice(text=mixed))


def report_datasets(
    output_dir: Path, *, catalogs: Sequence[Catalog], order: SampleOrder, lengths_of: LengthsOf, workers: CacheWorkers
) -> None:
    """Write the page about `catalogs` and how `order` uses them, on the first rank; an OSError only warns."""
    if workers.ranks.rank != 0:
        return
    reporter = workers.reporter
    plans = {(plan.dataset_id, plan.size): plan.in_words for plan in first_epoch(order)}
    notes = [[plans.get((each.dataset_id, bucket.size), "") for bucket in each.buckets] for each in catalogs]
    digest = fingerprint(catalogs, notes=notes)
    path = output_dir / PAGE
    if path.is_file() and digest in _start(path):
        return
    views = [
        survey(each, notes=bucket_notes, lengths=lengths_of(each), workers=workers.threads)
        for each, bucket_notes in zip(catalogs, notes, strict=True)
    ]
    content = reporter.redact(datasets_page(views, fingerprint=digest))
    try:
        atomic_write(path, lambda partial: partial.write_text(content, encoding="utf-8", errors="replace"))
    except OSError as error:
        reporter.handle(Notice(text=f"{path} cannot be written: {error.strerror}", level="warning"))
        return
    reporter.handle(Notice(text=f"the training data at a glance: {path}"))


def _start(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(FIRST_BYTES).decode("utf-8", "replace")
