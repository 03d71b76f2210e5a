"""Decides which differences between a checkpoint and the run that resumes it are refused, reported or ignored."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from helpers.config.datasets.key_changes import KEY_CHANGES, ORDER
from helpers.config.option import OnResume, recorded
from helpers.config.train_config import all_options
from helpers.errors import CheckpointError
from helpers.reporting.events import Change
from helpers.training.checkpoint.manifest import CheckpointManifest, RunInputs

BASE_MODEL = "the base model"
WORLD_SIZE = "the number of processes"
DATASET = "dataset"
NOT_THERE = "not there"
QUANTIZED_LAYERS = "the arithmetic of quantized layers"


def must_agree() -> tuple[str, ...]:
    """What must be the same as in the checkpoint: the base model and the options declared with `OnResume.REFUSE`."""
    return (BASE_MODEL, *(option.name for option in all_options() if option.on_change.on_resume is OnResume.REFUSE))


@dataclass(frozen=True, kw_only=True)
class ResumeComparison:
    """The reported changes, and whether the order of images is unchanged.

    settings: options, dataset keys, and datasets added or removed; known when the run starts. inputs: what the run
    finds: the number of processes, the images of datasets, the arithmetic of quantized layers.
    """

    settings: tuple[Change, ...]
    inputs: tuple[Change, ...]
    same_order: bool

    @property
    def announced(self) -> tuple[Change, ...]:
        """All reported changes."""
        return (*self.inputs, *self.settings)


def compare(
    manifest: CheckpointManifest,
    *,
    configuration: Mapping[str, Mapping[str, Any]],
    foundations: RunInputs,
    folder: str,
) -> ResumeComparison:
    """What has changed. Raises CheckpointError if a change makes it impossible to resume."""
    saved = manifest.foundations
    inputs = (*_inputs(saved, foundations), *_quantized_layers(manifest, foundations))
    settings = (
        *_datasets(saved.datasets, foundations.datasets),
        *_dataset_settings(saved.dataset_settings, foundations.dataset_settings),
        *_settings(manifest.configuration, configuration),
    )
    refused = [change for change in (*inputs, *settings) if change.name in must_agree()]
    if refused:
        listed = "\n".join(f"  {each.name}: {each.before} in the checkpoint, {each.now} now" for each in refused)
        raise CheckpointError(
            f"{folder} cannot be resumed with these settings:\n{listed}\n"
            "Set them back to resume, or start a new run: another OUTPUT_DIR, or resume_from_checkpoint=none."
        )
    same_order = (saved.world_size, saved.datasets) == (foundations.world_size, foundations.datasets)
    return ResumeComparison(settings=settings, inputs=inputs, same_order=same_order)


def _inputs(saved: RunInputs, current: RunInputs) -> Iterator[Change]:
    if saved.base_identity != current.base_identity:
        yield Change(
            name=BASE_MODEL,
            before=f"{saved.base_model} ({saved.base_identity})",
            now=f"{current.base_model} ({current.base_identity})",
        )
    if saved.world_size != current.world_size:
        yield Change(name=WORLD_SIZE, before=str(saved.world_size), now=str(current.world_size))
    for dataset in sorted(saved.datasets.keys() & current.datasets.keys()):
        before, now = saved.datasets[dataset], current.datasets[dataset]
        if before != now:
            yield Change(name=f"{DATASET} {dataset}", before=before, now=now)


def _datasets(saved: Mapping[str, str], current: Mapping[str, str]) -> Iterator[Change]:
    """Datasets that were added or removed."""
    for dataset in sorted(saved.keys() ^ current.keys()):
        before, now = ("there", NOT_THERE) if dataset in saved else (NOT_THERE, "there")
        yield Change(name=f"{DATASET} {dataset}", before=before, now=now, effect=ORDER.describe())


def _dataset_settings(
    saved: Mapping[str, Mapping[str, str]], current: Mapping[str, Mapping[str, str]]
) -> Iterator[Change]:
    """Changed keys of datasets that both have. They do not change the position in the order; the catalogs do."""
    for dataset, keys in current.items():
        for key, value in keys.items():
            before = saved.get(dataset, {}).get(key, value)
            if before != value:
                effect = KEY_CHANGES[key].describe()
                yield Change(
                    name=f"{DATASET} {dataset}, {key}", before=before or "none", now=value or "none", effect=effect
                )


def _quantized_layers(manifest: CheckpointManifest, current: RunInputs) -> Iterator[Change]:
    """Another arithmetic of quantized layers, if the checkpoint's run had any: same frozen weights, other rounding."""
    saved = manifest.foundations.quantized_layers
    levels = [str(value) for value in manifest.configuration.get("precision", {}).values()]
    if saved != current.quantized_layers and any(level.endswith("-quanto") for level in levels):
        yield Change(name=QUANTIZED_LAYERS, before=saved, now=current.quantized_layers)


def _settings(saved: Mapping[str, Mapping[str, Any]], current: Mapping[str, Mapping[str, Any]]) -> Iterator[Change]:
    """Changed options that matter. One that only one of the two program versions has is not compared."""
    for option in all_options():
        if option.on_change.on_resume is OnResume.IGNORE:
            continue
        value = current.get(option.group, {}).get(option.name)
        before = recorded(option, saved, otherwise=value)
        if before != value:
            yield Change(name=option.name, before=str(before), now=str(value), effect=option.on_change.describe())
