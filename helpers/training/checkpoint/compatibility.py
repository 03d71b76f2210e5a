"""What may differ between a checkpoint and the run that continues it: refused, announced or of no account, as data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from helpers.config.option import OnResume, recorded
from helpers.config.train_config import all_options
from helpers.errors import CheckpointError
from helpers.reporting.events import Change
from helpers.training.checkpoint.manifest import CheckpointManifest, RunInputs

BASE_MODEL = "the base model"
WORLD_SIZE = "the number of processes"
DATASET = "dataset"
QUANTIZED_LAYERS = "the arithmetic of quantized layers"


def must_agree() -> tuple[str, ...]:
    """What has to be the same as in the checkpoint: the base model, and the options that say so."""
    return (BASE_MODEL, *(option.name for option in all_options() if option.on_change.on_resume is OnResume.REFUSE))


@dataclass(frozen=True, kw_only=True)
class ResumeComparison:
    """How a run continues: what is announced, and whether the order of images is still the one it had."""

    announced: tuple[Change, ...]
    same_order: bool


def compare(
    manifest: CheckpointManifest,
    *,
    configuration: Mapping[str, Mapping[str, Any]],
    foundations: RunInputs,
    folder: str,
) -> ResumeComparison:
    """What differs; raises CheckpointError where the run would not be the one that was saved."""
    differences = [*_foundations(manifest.foundations, foundations)]
    same_order = not any(difference.name.startswith((WORLD_SIZE, DATASET)) for difference in differences)
    differences += _dataset_settings(manifest.foundations.dataset_settings, foundations.dataset_settings)
    differences += _settings(manifest.configuration, configuration)
    differences += _quantized_layers(manifest, foundations)
    refused = [difference for difference in differences if difference.name in must_agree()]
    if refused:
        listed = "\n".join(f"  {each.name}: {each.before} in the checkpoint, {each.now} now" for each in refused)
        raise CheckpointError(
            f"{folder} cannot be continued with these settings:\n{listed}\n"
            "Set them back to continue it, or start a new run: another OUTPUT_DIR, or resume_from_checkpoint=none."
        )
    return ResumeComparison(announced=tuple(differences), same_order=same_order)


def _foundations(saved: RunInputs, current: RunInputs) -> Iterator[Change]:
    if saved.base_identity != current.base_identity:
        yield Change(
            name=BASE_MODEL,
            before=f"{saved.base_model} ({saved.base_identity})",
            now=f"{current.base_model} ({current.base_identity})",
        )
    if saved.world_size != current.world_size:
        yield Change(name=WORLD_SIZE, before=str(saved.world_size), now=str(current.world_size))
    for dataset in sorted(saved.datasets.keys() | current.datasets.keys()):
        before, now = saved.datasets.get(dataset, "not there"), current.datasets.get(dataset, "not there")
        if before != now:
            yield Change(name=f"{DATASET} {dataset}", before=before, now=now)


def _dataset_settings(
    saved: Mapping[str, Mapping[str, str]], current: Mapping[str, Mapping[str, str]]
) -> Iterator[Change]:
    """Keys that differ of datasets that both have: none moves the place in the order, which the catalogs decide."""
    for dataset, keys in current.items():
        for key, value in keys.items():
            before = saved.get(dataset, {}).get(key, value)
            if before != value:
                yield Change(name=f"{DATASET} {dataset}, {key}", before=before or "none", now=value or "none")


def _quantized_layers(manifest: CheckpointManifest, current: RunInputs) -> Iterator[Change]:
    """How quantized layers compute, where the checkpoint's run had any: the same frozen weights, rounded otherwise."""
    saved = manifest.foundations.quantized_layers
    levels = [str(value) for value in manifest.configuration.get("precision", {}).values()]
    if saved != current.quantized_layers and any(level.endswith("-quanto") for level in levels):
        yield Change(name=QUANTIZED_LAYERS, before=saved, now=current.quantized_layers)


def _settings(saved: Mapping[str, Mapping[str, Any]], current: Mapping[str, Mapping[str, Any]]) -> Iterator[Change]:
    """Settings that differ and matter; one that only one of the two program versions knows can't be compared."""
    for option in all_options():
        if option.on_change.on_resume is OnResume.IGNORE:
            continue
        value = current.get(option.group, {}).get(option.name)
        before = recorded(option, saved, otherwise=value)
        if before != value:
            yield Change(name=option.name, before=str(before), now=str(value), effect=option.on_change.describe())
