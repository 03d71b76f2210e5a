"""Checks of dataset entries beyond single values: missing folders and files, keys that depend on each other."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.config.datasets.entries import SKIPPABLE, Entry, SortedEntries
from helpers.config.datasets.types import (
    CsvDataset,
    EmbedsStore,
    HuggingFaceDataset,
    ImageDataset,
    LocalDataset,
    S3Dataset,
)
from helpers.config.suggestions import did_you_mean
from helpers.errors import Problem

MAX_MEGAPIXELS = 100.0
"""More than any image model trains at, so a larger value was probably meant in pixels."""


def check_datasets(
    images: Sequence[tuple[Entry, ImageDataset | None]],
    *,
    entries: SortedEntries,
    stores: Sequence[EmbedsStore],
    output_dir: Path,
) -> list[Problem]:
    """Every problem with the datasets beyond single values; None stands for one that could not be read."""
    problems: list[Problem] = []
    for entry, dataset in images:
        problems += _store(entry, "text_embeds", known=entries.texts)
        problems += _store(entry, "image_embeds", known=entries.latents)
        if dataset is not None:
            if isinstance(dataset, LocalDataset):
                problems += _folders(entry, dataset=dataset, stores=stores, output_dir=output_dir)
            problems += _sizes(entry, dataset=dataset)
            problems += _crops(entry, dataset=dataset)
            problems += _captions(entry, dataset=dataset)
            problems += check_table(entry, dataset=dataset)
    for entry in (*entries.images, *entries.texts, *entries.latents):
        problems += _keys(entry)
    return problems


def _store(entry: Entry, key: str, *, known: Sequence[Entry]) -> Iterator[Problem]:
    named, ids = entry.values.get(key), [each.name for each in known]
    if isinstance(named, str) and named not in ids:
        fix = did_you_mean(str(named), ids, otherwise=f"remove it, or add an entry of this id and dataset_type {key}")
        yield entry.problem(key, reason=f"no {key} entry has this id", fix=fix)
    if key == "image_embeds" and named is not None and "cache_dir_vae" in entry.values:
        reason = f"image_embeds already sets {named} as the cache of latents"
        yield entry.problem("cache_dir_vae", reason=reason, fix="remove one of the two")


def _keys(entry: Entry) -> Iterator[Problem]:
    given, missing = "aws_access_key_id", "aws_secret_access_key"
    if (given in entry.values) != (missing in entry.values):
        given, missing = (given, missing) if given in entry.values else (missing, given)
        fix = f"add {missing}, or remove both to use the environment's AWS settings"
        yield entry.problem(given, reason=f"it has no effect without {missing}", fix=fix)


def _folders(
    entry: Entry, *, dataset: LocalDataset, stores: Sequence[EmbedsStore], output_dir: Path
) -> Iterator[Problem]:
    images = dataset.instance_data_dir
    if not images.is_dir():
        reason = f"{images} is not a folder" if images.exists() else f"there is no folder {images}"
        fix = "name the folder that holds the images; a relative path starts at OUTPUT_DIR"
        yield entry.problem("instance_data_dir", reason=reason, fix=fix)
    own = images.resolve()
    if output_dir.resolve().is_relative_to(own):
        reason = f"OUTPUT_DIR ({output_dir}) lies inside it, so generated images would be trained on"
        yield entry.problem("instance_data_dir", reason=reason, fix="move the images, or OUTPUT_DIR, elsewhere")
        return
    if dataset.cache_dir_vae.resolve().is_relative_to(own):
        reason = "it is inside the image folder, where nothing may be written"
        yield entry.problem("cache_dir_vae", reason=reason, fix="name a folder outside instance_data_dir")
    for store in stores:
        if store.cache_dir.resolve().is_relative_to(own):
            reason = f"the cache_dir of {store.id} ({store.cache_dir}) is inside it, where nothing may be written"
            yield entry.problem("instance_data_dir", reason=reason, fix="name a cache_dir outside it")


def _sizes(entry: Entry, *, dataset: ImageDataset) -> Iterator[Problem]:
    largest, shrunk, smallest = dataset.maximum_image_size, dataset.target_downsample_size, dataset.minimum_image_size
    if (largest is None) != (shrunk is None):
        there, missing = "maximum_image_size", "target_downsample_size"
        if largest is None:
            there, missing = missing, there
        yield entry.problem(there, reason=f"it has no effect without {missing}", fix=f"use both, or remove {there}")
    elif largest is not None and shrunk is not None and shrunk > largest:
        reason = f"it is more than maximum_image_size ({largest:g}), so images would be enlarged instead of shrunk"
        yield entry.problem("target_downsample_size", reason=reason, fix="use at most maximum_image_size")
    if largest is not None and smallest is not None and smallest > largest:
        reason = f"it is more than maximum_image_size ({largest:g}), so no image could be used"
        yield entry.problem("minimum_image_size", reason=reason, fix="use less than maximum_image_size")
    if dataset.resolution_type == "area" and dataset.resolution > MAX_MEGAPIXELS:
        reason = f"resolution_type is area, so this means {dataset.resolution:g} megapixels"
        yield entry.problem("resolution", reason=reason, fix='use 1.0, or "resolution_type": "pixel"')
    edge = 1000 * dataset.resolution**0.5 if dataset.resolution_type == "area" else dataset.resolution
    if edge < dataset.aspect_bucket_alignment:
        reason = (
            f"an edge of {edge:.0f} pixels is less than aspect_bucket_alignment ({dataset.aspect_bucket_alignment})"
        )
        unit = "megapixels" if dataset.resolution_type == "area" else "pixels"
        yield entry.problem("resolution", reason=reason, fix=f"use a larger resolution, in {unit}")


def _crops(entry: Entry, *, dataset: ImageDataset) -> Iterator[Problem]:
    chosen = dataset.crop_aspect in ("random", "closest")
    if dataset.crop and chosen and not dataset.crop_aspect_buckets:
        reason = "it selects one of crop_aspect_buckets, which is not set"
        yield entry.problem("crop_aspect", reason=reason, fix='add "crop_aspect_buckets": [0.75, 1.0, 1.5]')
    if dataset.vae_cache_clear_each_epoch and not (dataset.crop and dataset.crop_style == "random"):
        reason = "only random crops differ between epochs"
        fix = 'leave it out, or set "crop": true and "crop_style": "random"'
        yield entry.problem("vae_cache_clear_each_epoch", reason=reason, fix=fix)
    for word in sorted(dataset.trusted.difference(SKIPPABLE)):
        fix = did_you_mean(word, SKIPPABLE, otherwise=f"use any of {' '.join(SKIPPABLE)}")
        yield entry.problem("skip_file_discovery", reason=f"{word} cannot be skipped", fix=fix)


def _captions(entry: Entry, *, dataset: ImageDataset) -> Iterator[Problem]:
    needed = {
        "caption_strategy": dataset.caption_strategy == "instanceprompt",
        "prepend_instance_prompt": dataset.prepend_instance_prompt,
        "only_instance_prompt": dataset.only_instance_prompt,
    }
    for key, needs_table in needed.items():
        if needs_table and not dataset.instance_prompt:
            yield entry.problem(key, reason="it needs an instance prompt", fix='add "instance_prompt": "…"')


TRAINING_KEYS = ("repeats", "probability", "ignore_epochs", "is_regularisation_data")


def check_mixing(images: Sequence[tuple[Entry, ImageDataset | None]], *, model_type: str) -> Iterator[Problem]:
    """Every problem with how datasets are combined; None stands for one that could not be read."""
    trained = [(entry, dataset) for entry, dataset in images if dataset is not None and not entry.is_eval]
    for entry, dataset in images:
        if dataset is not None and entry.is_eval:
            yield from _check_eval(entry)
    for entry, dataset in trained:
        if dataset.ignore_epochs and dataset.repeats:
            reason = (
                "with ignore_epochs the length of an epoch does not depend on this dataset, so repeats have no effect"
            )
            yield entry.problem("repeats", reason=reason, fix="remove it, and set `probability`")
        if dataset.is_regularisation_data and model_type != "lora":
            reason = "it needs the base model's own prediction, which full fine-tuning does not keep"
            yield entry.problem("is_regularisation_data", reason=reason, fix="use false, or MODEL_TYPE=lora")
    if trained and all(dataset.ignore_epochs for _, dataset in trained):
        reason = "no dataset is left that sets the length of an epoch"
        yield trained[0][0].problem("ignore_epochs", reason=reason, fix="use false in one entry at least")


def _check_eval(entry: Entry) -> Iterator[Problem]:
    for key in TRAINING_KEYS:
        if entry.values.get(key):
            reason = "an eval dataset is never trained on"
            yield entry.problem(key, reason=reason, fix='leave it out, or set "dataset_type": "image"')


TABLE_ENDINGS = (".parquet", ".jsonl")
NEEDS = 'add "parquet": { "path": …, "filename_column": … }'


def check_table(entry: Entry, *, dataset: ImageDataset) -> Iterator[Problem]:
    """Every problem with the tables that a dataset's entry names or needs."""
    match dataset:
        case LocalDataset() | S3Dataset():
            yield from _about_files(entry, dataset=dataset)
        case CsvDataset() if not dataset.csv_file.is_file():
            yield _no_file(entry, "csv_file", path=dataset.csv_file)
        case HuggingFaceDataset():
            yield from _hub(entry, dataset=dataset)
        case _:
            return


def _about_files(entry: Entry, *, dataset: LocalDataset | S3Dataset) -> Iterator[Problem]:
    table, sizes, captions = (
        dataset.parquet,
        *(each == "parquet" for each in (dataset.metadata_backend, dataset.caption_strategy)),
    )
    if table is None:
        for key, needs_table in {"metadata_backend": sizes, "caption_strategy": captions}.items():
            if needs_table and "parquet" not in entry.values:
                yield entry.problem(key, reason="no table is set", fix=NEEDS)
        return
    strategy = entry.values.get("caption_strategy", dataset.caption_strategy)
    if not sizes and not captions and strategy == dataset.caption_strategy:
        fix = 'add "metadata_backend": "parquet" or "caption_strategy": "parquet", or remove it'
        yield entry.problem("parquet", reason="nothing in this entry uses a table", fix=fix)
    if not str(table.path).endswith(TABLE_ENDINGS):
        yield entry.problem(
            "parquet", reason=f"{table.path} is not a supported table", fix="name a .parquet or .jsonl file"
        )
    elif isinstance(table.path, Path) and not table.path.is_file():
        yield _no_file(entry, "parquet", path=table.path)
    if sizes and not (table.width_column and table.height_column):
        yield entry.problem(
            "parquet",
            reason='"metadata_backend": "parquet" takes sizes from it, and their columns are not set',
            fix='add "width_column" and "height_column" in it, or set "metadata_backend": "discovery"',
        )
    if captions and not table.caption_column:
        yield entry.problem("parquet", reason="the column of captions is not set", fix='add "caption_column" in it')


def _no_file(entry: Entry, key: str, *, path: Path) -> Problem:
    reason = f"{path} is not a file" if path.exists() else f"there is no file {path}"
    return entry.problem(key, reason=reason, fix="name the table's file; a relative path starts at OUTPUT_DIR")


def _hub(entry: Entry, *, dataset: HuggingFaceDataset) -> Iterator[Problem]:
    name = dataset.dataset_name
    if dataset.folder is None and (name.count("/") > 1 or name.startswith((".", "/", "~"))):
        fix = "name a folder of .parquet files, or a hub id such as owner/name"
        yield entry.problem("dataset_name", reason="no such folder, and not a hub id", fix=fix)
