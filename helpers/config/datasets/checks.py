"""What is wrong with datasets beyond single values: folders that are not there, keys that need one another."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from helpers.config.dataset_keys import SKIPPABLE
from helpers.config.dataset_table_checks import check_table
from helpers.config.datasets.entries import Entry, SortedEntries
from helpers.config.datasets.types import EmbedsStore, ImageDataset, LocalDataset
from helpers.config.suggestions import did_you_mean
from helpers.errors import Problem

MOST_MEGAPIXELS = 100.0
"""More than any image model trains at: whoever says more has pixels in mind."""


def check_datasets(
    images: Sequence[tuple[Entry, ImageDataset | None]],
    *,
    entries: SortedEntries,
    stores: Sequence[EmbedsStore],
    output_dir: Path,
) -> list[Problem]:
    """Everything wrong with the datasets beyond single values; None stands for one that could not be read."""
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
    named, ids = entry.said.get(key), [each.name for each in known]
    if isinstance(named, str) and named not in ids:
        fix = did_you_mean(str(named), ids, otherwise=f"remove it, or add an entry of this id and dataset_type {key}")
        yield entry.problem(key, reason=f"no {key} entry has this id", fix=fix)
    if key == "image_embeds" and named is not None and "cache_dir_vae" in entry.said:
        reason = f"latents are kept in {named}, as image_embeds says"
        yield entry.problem("cache_dir_vae", reason=reason, fix="remove one of the two")


def _keys(entry: Entry) -> Iterator[Problem]:
    said, missing = "aws_access_key_id", "aws_secret_access_key"
    if (said in entry.said) != (missing in entry.said):
        said, missing = (said, missing) if said in entry.said else (missing, said)
        fix = f"add {missing}, or remove both to use the environment's AWS settings"
        yield entry.problem(said, reason=f"it has no meaning without {missing}", fix=fix)


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
        reason = f"OUTPUT_DIR ({output_dir}) lies inside it, so the images drawn would be trained on"
        yield entry.problem("instance_data_dir", reason=reason, fix="move the images, or OUTPUT_DIR, elsewhere")
        return
    if dataset.cache_dir_vae.resolve().is_relative_to(own):
        reason = "it lies inside the image folder, where this program writes nothing"
        yield entry.problem("cache_dir_vae", reason=reason, fix="name a folder outside instance_data_dir")
    for store in stores:
        if store.cache_dir.resolve().is_relative_to(own):
            reason = f"the cache_dir of {store.id} ({store.cache_dir}) lies inside; this program writes nothing there"
            yield entry.problem("instance_data_dir", reason=reason, fix="name a cache_dir outside of it")


def _sizes(entry: Entry, *, dataset: ImageDataset) -> Iterator[Problem]:
    largest, shrunk, smallest = dataset.maximum_image_size, dataset.target_downsample_size, dataset.minimum_image_size
    if (largest is None) != (shrunk is None):
        there, missing = "maximum_image_size", "target_downsample_size"
        if largest is None:
            there, missing = missing, there
        yield entry.problem(there, reason=f"it has no meaning without {missing}", fix=f"say both, or remove {there}")
    elif largest is not None and shrunk is not None and shrunk > largest:
        reason = f"it is more than maximum_image_size ({largest:g}), so it would enlarge instead of shrink"
        yield entry.problem("target_downsample_size", reason=reason, fix="say at most maximum_image_size")
    if largest is not None and smallest is not None and smallest > largest:
        reason = f"it is more than maximum_image_size ({largest:g}), so no image could be used"
        yield entry.problem("minimum_image_size", reason=reason, fix="say less than maximum_image_size")
    if dataset.resolution_type == "area" and dataset.resolution > MOST_MEGAPIXELS:
        reason = f"resolution_type is area, so this asks for {dataset.resolution:g} megapixels"
        yield entry.problem("resolution", reason=reason, fix='say 1.0, or "resolution_type": "pixel"')
    edge = 1000 * dataset.resolution**0.5 if dataset.resolution_type == "area" else dataset.resolution
    if edge < dataset.aspect_bucket_alignment:
        reason = (
            f"an edge of {edge:.0f} pixels is less than aspect_bucket_alignment ({dataset.aspect_bucket_alignment})"
        )
        unit = "megapixels" if dataset.resolution_type == "area" else "pixels"
        yield entry.problem("resolution", reason=reason, fix=f"say a larger resolution, in {unit}")


def _crops(entry: Entry, *, dataset: ImageDataset) -> Iterator[Problem]:
    chosen = dataset.crop_aspect in ("random", "closest")
    if dataset.crop and chosen and not dataset.crop_aspect_buckets:
        reason = "it chooses among crop_aspect_buckets, which are missing"
        yield entry.problem("crop_aspect", reason=reason, fix='add "crop_aspect_buckets": [0.75, 1.0, 1.5]')
    if dataset.vae_cache_clear_each_epoch and not (dataset.crop and dataset.crop_style == "random"):
        reason = "only random crops are other ones in another epoch"
        fix = 'leave it out, or say "crop": true and "crop_style": "random"'
        yield entry.problem("vae_cache_clear_each_epoch", reason=reason, fix=fix)
    for word in sorted(dataset.trusted.difference(SKIPPABLE)):
        fix = did_you_mean(word, SKIPPABLE, otherwise=f"say words of: {' '.join(SKIPPABLE)}")
        yield entry.problem("skip_file_discovery", reason=f"{word} names nothing to skip", fix=fix)


def _captions(entry: Entry, *, dataset: ImageDataset) -> Iterator[Problem]:
    needed = {
        "caption_strategy": dataset.caption_strategy == "instanceprompt",
        "prepend_instance_prompt": dataset.prepend_instance_prompt,
        "only_instance_prompt": dataset.only_instance_prompt,
    }
    for key, asks in needed.items():
        if asks and not dataset.instance_prompt:
            yield entry.problem(key, reason="it needs an instance prompt", fix='add "instance_prompt": "…"')
