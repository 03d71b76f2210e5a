"""Opens a dataset: its images, captions and crops, and the images it rejects, with reasons.

Only headers are read, and those of known files come from a cache. The result does not depend on the order of a listing
or the timing of threads.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from helpers.config.datasets.types import ImageDataset
from helpers.data.captions import (
    CaptionFilter,
    CaptionRules,
    ConstantCaption,
    MissingCaption,
    caption_column,
    caption_rules,
    captions_for,
    captions_from_lines,
)
from helpers.data.catalog.face_crops import face_centers
from helpers.data.catalog.from_table import TableMatch, match_table
from helpers.data.catalog.known_files import FileMetadataCache, file_keys
from helpers.data.catalog.scan import HEADERS, FileListing, FileReader, find_files, header
from helpers.data.columns import TextColumn, printable
from helpers.data.images.color import Profile
from helpers.data.images.geometry import crop_around, cut_rules, draw_of_epoch, geometries, random_draws, size_metric
from helpers.data.rejections import (
    NAMES_SHOWN,
    NOTHING_LEFT_TO_SAY,
    TOO_LONG,
    TOO_SMALL,
    describe_rejected,
    empty_dataset_error,
    some_names,
)
from helpers.data.sources.image_table import ImageTable
from helpers.data.types import Catalog, Rejected
from helpers.reporting.events import Notice
from helpers.reporting.format import format_count
from helpers.reporting.reporter import Reporter
from helpers.storage.protocols import CacheStore, SourceStore

FROM_TABLES = ("parquet", "csv", "huggingface")
"""Caption strategies that read a table."""
CONVERTED_MARK = "+srgb-1"
"""Ends the tag of an image that is converted to sRGB; change it if the conversion changes."""
UNITS = {"area": "megapixels", "pixel": "pixels (shorter edge)", "pixel_area": "pixels (edge of a square of that area)"}


def open_catalog(
    dataset: ImageDataset,
    *,
    source: SourceStore,
    metadata: CacheStore,
    seed: int,
    workers: int,
    reporter: Reporter,
    longest_edge_px: int,
    filters: Sequence[str] = (),
    table: ImageTable | None = None,
) -> Catalog:
    """All images of `dataset` that can be used for training, ordered by path; `source` holds their files.

    metadata: the dataset's cache of file metadata; seed: for random choices; workers: threads; longest_edge_px: the
    longest edge that the model supports; filters: of `caption_filter_list`; table: with sizes or captions of images.
    Raises DataError if `source` cannot be listed or no image is left, with the reasons and the settings to change.
    """
    rules = caption_rules(dataset, seed=seed, filters=filters)
    found = find_files(source, want_notes=rules.strategy == "textfile")
    reader = FileReader(
        dataset_id=dataset.id, found=found, source=source, metadata=metadata, workers=workers, reporter=reporter
    )
    match = match_table(table, reader) if table is not None else None
    sizes, profiles, rejected, ignored = _sizes(dataset, reader, match)
    crops = _crops(dataset, found, sizes, seed=seed)
    rejected |= _of_unfit_size(dataset, sizes, crops, longest_edge_px=longest_edge_px)
    not_chosen = _choose(dataset, found, sizes, rejected, seed=seed)
    rejected |= _crop_around_faces(dataset, reader, sizes, crops, rows=_rows_left(sizes, rejected))
    captions_of, captionless = _captions(reader, _rows_left(sizes, rejected), rules, match)
    rows = _rows_left(sizes, rejected := rejected | captionless)
    catalog = Catalog(
        dataset_id=dataset.id,
        source=source,
        repeats=dataset.repeats,
        probability=dataset.probability,
        ignore_epochs=dataset.ignore_epochs,
        is_regularisation_data=dataset.is_regularisation_data,
        paths=found.paths.take(rows),
        tags=_marked(found.tags.take(rows), profiles[rows]),
        size_bytes=found.size_bytes[rows],
        sizes=sizes[rows],
        geometries=crops[rows],
        captions_of=captions_of,
        rejected=tuple(Rejected(found.paths[row], rejected[row]) for row in sorted(rejected)),
        ignored=ignored,
        not_chosen=not_chosen,
    )
    _report(catalog, profiles[rows], reporter, match)
    return catalog


def recrop(catalog: Catalog, *, dataset: ImageDataset, seed: int, epoch: int) -> Catalog:
    """The catalog with new random crops for `epoch` (from 0); every image stays in its bucket."""
    draws = draw_of_epoch(catalog.paths, seed=seed, dataset_id=dataset.id, epoch=epoch)
    return replace(catalog, geometries=geometries(catalog.sizes, rules=cut_rules(dataset), draws=draws))


def remember_rejected(metadata: CacheStore, catalog: Catalog, rejected: Sequence[Rejected]) -> None:
    """Cache which images cannot be decoded, so that the next start leaves them out without decoding them.

    Rejections that are not `lasting` are skipped.
    """
    reasons = {image.path: image.reason for image in rejected if image.lasting}
    if not reasons:
        return
    rows = [row for row, path in enumerate(catalog.paths) if path in reasons]
    paths = [catalog.paths[row] for row in rows]
    tags = [catalog.tags[row].removesuffix(CONVERTED_MARK) for row in rows]
    keys = file_keys(paths, catalog.size_bytes[rows].tolist(), tags)
    cache = FileMetadataCache(metadata, name=HEADERS)
    for key, path in zip(keys, paths, strict=True):
        cache.add(key, header((0, 0), reason=reasons[path]))
    cache.flush()


def _marked(tags: TextColumn, profiles: NDArray[np.uint8]) -> TextColumn:
    """The tags [N], marked where the pixels are converted, so that latents of unconverted ones are not found."""
    if not (profiles == Profile.CONVERTED).any():
        return tags
    converted = (profiles == Profile.CONVERTED).tolist()
    return TextColumn.of(tag + CONVERTED_MARK if marked else tag for tag, marked in zip(tags, converted, strict=True))


def _warn_of_profiles(catalog: Catalog, profiles: NDArray[np.uint8], reporter: Reporter) -> None:
    """Name images [N] whose color profile cannot be used; they are trained on all the same."""
    rows = np.flatnonzero(profiles == Profile.UNUSABLE)
    if len(rows):
        names = some_names([printable(catalog.paths[row]) for row in map(int, rows[: NAMES_SHOWN + 1])])
        count = format_count(len(rows), "images")
        text = f"dataset {catalog.dataset_id}: unusable color profiles in {count} ({names}); they are read as sRGB"
        reporter.handle(Notice(text=text, level="warning"))


def _rows_left(sizes: NDArray[np.int32], rejected: dict[int, str]) -> NDArray[np.int64]:
    """The rows of images that are not rejected."""
    left = sizes[:, 0] > 0
    left[list(rejected)] = False
    return np.flatnonzero(left)


def _choose(
    dataset: ImageDataset, found: FileListing, sizes: NDArray[np.int32], rejected: dict[int, str], *, seed: int
) -> int:
    """Drop images beyond `max_num_samples` by setting their size to 0; returns how many.

    Each image's priority depends on its path, so adding or removing an image changes the choice by one at most.
    """
    rows = _rows_left(sizes, rejected)
    if dataset.max_num_samples is None or len(rows) <= dataset.max_num_samples:
        return 0
    draws = random_draws(found.paths.take(rows), seed=seed, dataset_id=dataset.id, purpose="sample")
    sizes[rows[np.argsort(draws[:, 0], kind="stable")[dataset.max_num_samples :]]] = 0
    return len(rows) - dataset.max_num_samples


def _crops(dataset: ImageDataset, found: FileListing, sizes: NDArray[np.int32], *, seed: int) -> NDArray[np.int32]:
    """The geometry of each file found [N, 6]; meaningless for files that are not images."""
    rules = cut_rules(dataset)
    draws = random_draws(found.paths, seed=seed, dataset_id=dataset.id) if rules.draws else np.zeros((0, 3))
    return geometries(np.maximum(sizes, 1), rules=rules, draws=draws)


def _crop_around_faces(
    dataset: ImageDataset,
    reader: FileReader,
    sizes: NDArray[np.int32],
    crops: NDArray[np.int32],
    *,
    rows: NDArray[np.int64],
) -> dict[int, str]:
    """If crop_style is `face`, center the crops of images `rows` on their faces; returns read errors by row."""
    if not (dataset.crop and dataset.crop_style == "face"):
        return {}
    middles, unreadable = face_centers(reader, rows, sizes=sizes)
    crops[rows] = crop_around(crops[rows], middles=middles)
    return unreadable


def _of_unfit_size(
    dataset: ImageDataset, sizes: NDArray[np.int32], crops: NDArray[np.int32], *, longest_edge_px: int
) -> dict[int, str]:
    """The reasons why images are too small, or have a training size that is too long, by row."""
    is_image = sizes[:, 0] > 0
    minimum = dataset.minimum_image_size or 0.0
    too_small = is_image & (size_metric(sizes, dataset.resolution_type) < minimum)
    too_long = is_image & ((crops[:, 4:6] - crops[:, 2:4]).max(axis=1) > longest_edge_px)
    small = f"{TOO_SMALL} = {minimum:g} {UNITS[dataset.resolution_type]}"
    long = f"{TOO_LONG}, {longest_edge_px} pixels"
    return {row: small if too_small[row] else long for row in np.flatnonzero(too_small | too_long).tolist()}


def _sizes(
    dataset: ImageDataset, reader: FileReader, match: TableMatch | None
) -> tuple[NDArray[np.int32], NDArray[np.uint8], dict[int, str], int]:
    """The upright size of each file [N, 2], 0 x 0 if it has none; its color profile [N], if it was opened; the reasons
    of rejected files, by row; and how many of the other files are not images.
    """
    if match is not None and dataset.metadata_backend == "parquet":
        sizes, rejected = match.sizes(reader)
        profiles = np.zeros(len(sizes), np.uint8)
    else:
        sizes, profiles, rejected = reader.read_headers()
        rejected |= match.no_images(sizes, rejected) if match is not None else {}
    images = int((sizes[:, 0] > 0).sum()) + len(rejected)
    return sizes, profiles, rejected, reader.found.ignored + len(sizes) - images


def _captions(
    reader: FileReader, rows: NDArray[np.int64], rules: CaptionRules, match: TableMatch | None
) -> tuple[Callable[[int], tuple[str, ...]], dict[int, str]]:
    """The captions of the images at `rows` that have any, in order, and why the others have none, by row."""
    if rules.strategy == "instanceprompt":
        return ConstantCaption(rules.prompt), {}
    captionless: dict[int, str] = {}
    if rules.strategy in FROM_TABLES:
        assert match is not None, "a dataset that wants a table's captions has a table"
        texts, captionless = match.captions(rows, fallback=rules.fallback)
        if not rules.filters and not rules.fallback:
            return captions_from_lines(texts.take(np.flatnonzero(texts.encoded.lengths)), rules=rules), captionless
        notes: Iterable[bytes | None] = texts.encoded
    else:
        contents, captionless = reader.read_captions(rows) if rules.strategy == "textfile" else ({}, {})
        notes = map(contents.get, rows.tolist())
    captions, words = [], CaptionFilter(rules.filters)
    for row, path, note in zip(rows.tolist(), reader.found.paths.take(rows), notes, strict=True):
        if row not in captionless:
            try:
                left = words(captions_for(path, note, rules=rules))
                if not left:
                    raise MissingCaption(NOTHING_LEFT_TO_SAY)
                captions.append(left)
            except MissingCaption as error:
                captionless[row] = error.reason
    if summary := str(words):
        reader.reporter.handle(Notice(text=f"dataset {reader.dataset_id}: {summary}"))
    return caption_column(captions, rules=rules), captionless


def _report(catalog: Catalog, profiles: NDArray[np.uint8], reporter: Reporter, match: TableMatch | None) -> None:
    """Report the number of images, unusable color profiles, and the rejected images by reason.

    Raises DataError if no image is left.
    """
    if not len(catalog):
        place = catalog.source.describe()
        raise empty_dataset_error(catalog.dataset_id, place=place, rejected=catalog.rejected, ignored=catalog.ignored)
    others = f"; {catalog.not_chosen} more are over max_num_samples" if catalog.not_chosen else ""
    others += f"; {catalog.ignored} other files ignored" if catalog.ignored else ""
    shapes = "1 size" if len(catalog.buckets) == 1 else f"{len(catalog.buckets)} sizes"
    reporter.handle(Notice(text=f"dataset {catalog.dataset_id}: {len(catalog)} images in {shapes}{others}"))
    _warn_of_profiles(catalog, profiles, reporter)
    if catalog.rejected:
        lines = "\n".join(f"  {line}" for line in describe_rejected(catalog.rejected))
        text = f"dataset {catalog.dataset_id}: {len(catalog.rejected)} images left out\n{lines}"
        reporter.handle(Notice(text=text, level="warning"))
    if match is not None and (without := match.rows_without_files):
        what = f"{format_count(without, 'rows')} of {match.table.place} without a matching file"
        reporter.handle(Notice(text=f"dataset {catalog.dataset_id}: {what}"))
