"""Reads the dataset file: datasets with every value filled in, or all its problems at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from helpers.config.datasets.checks import check_datasets, check_mixing
from helpers.config.datasets.entries import (
    Entry,
    read_image_entry,
    read_latents_entry,
    read_text_entry,
    sort_entries,
)
from helpers.config.datasets.types import EmbedsStore, ImageDataset, TextEmbedsStore
from helpers.config.files.json_file import MissingJson, WrongJson, read_json
from helpers.config.suggestions import did_you_mean
from helpers.config.train_config import RunConfig
from helpers.errors import ConfigError, Problem

__all__ = ["DatasetFile", "ImageDataset", "TextEmbedsStore", "dataset_file_path", "load_datasets", "read_datasets"]

FILE_NAME = "multidatabackend.json"
CONFIG_FOLDER = Path(__file__).resolve().parents[3] / "config"


@dataclass(frozen=True, kw_only=True)
class DatasetFile:
    """The datasets to train on, the eval datasets, and the caches.

    eval: datasets that are encoded like the others and never trained on. text_embeds: the default text cache;
    other_text_embeds, image_embeds: caches that datasets name.
    """

    images: tuple[ImageDataset, ...]
    text_embeds: TextEmbedsStore
    eval: tuple[ImageDataset, ...] = ()
    other_text_embeds: tuple[TextEmbedsStore, ...] = ()
    image_embeds: tuple[EmbedsStore, ...] = ()

    @property
    def all_images(self) -> tuple[ImageDataset, ...]:
        """Every dataset whose images are encoded."""
        return (*self.images, *self.eval)

    @property
    def text_stores(self) -> tuple[TextEmbedsStore, ...]:
        """Every text cache, the default one first."""
        return (self.text_embeds, *self.other_text_embeds)

    def text_store_of(self, dataset: ImageDataset) -> TextEmbedsStore:
        """The text cache of the dataset."""
        return next((store for store in self.text_stores if store.id == dataset.text_embeds), self.text_embeds)

    def latents_of(self, dataset: ImageDataset) -> EmbedsStore:
        """The latent cache of the dataset: the one it names, else its `cache_dir_vae`."""
        own = EmbedsStore.model_construct(
            id=dataset.id, cache_dir=dataset.cache_dir_vae, write_batch_size=dataset.write_batch_size
        )
        return next((store for store in self.image_embeds if store.id == dataset.image_embeds), own)


def load_datasets(config: RunConfig) -> DatasetFile:
    """The run's datasets. Raises ConfigError, listing every problem."""
    datasets, problems = read_datasets(config)
    if datasets is None:
        raise ConfigError(problems)
    return datasets


def dataset_file_path(config: RunConfig) -> Path:
    """The dataset file: the one that is set, else the one in the output folder, else the one in `config/`."""
    if config.data.data_backend_config:
        return Path(config.data.data_backend_config).expanduser()
    in_output = Path(config.run.output_dir).expanduser() / FILE_NAME
    in_config = CONFIG_FOLDER / FILE_NAME
    return in_config if in_config.is_file() and not in_output.is_file() else in_output


def read_datasets(config: RunConfig) -> tuple[DatasetFile | None, list[Problem]]:
    """The datasets, or None and every problem."""
    path = dataset_file_path(config)
    listed, problems = _read_list(path)
    return read_entries(listed, file=path.name, config=config) if listed is not None else (None, problems)


def read_entries(listed: list[Any], *, file: str, config: RunConfig) -> tuple[DatasetFile | None, list[Problem]]:
    """The same for the list in `file`."""
    problems: list[Problem] = []
    output_dir = Path(config.run.output_dir).expanduser().absolute()
    entries = sort_entries(listed, file=file, problems=problems)
    read: dict[str, Any] = {"config": config, "output_dir": output_dir, "problems": problems}
    images = [(entry, read_image_entry(entry, **read)) for entry in entries.images]
    texts = _text_stores(entries.texts, file=file, **read)
    latents = [read_latents_entry(entry, **read) for entry in entries.latents]
    stores = [store for store in (*texts, *latents) if store is not None]
    problems += check_datasets(images, entries=entries, stores=stores, output_dir=output_dir)
    problems += check_mixing(images, model_type=config.model.model_type)
    if all(entry.is_eval for entry in entries.images) and not problems:
        reason = "no entry names images to train on, or all of them are disabled"
        fix = 'add an entry with "id", "type": "local" and "instance_data_dir"'
        problems.append(Problem(option=file, value="", reason=reason, fix=fix))
    held_out = [dataset for entry, dataset in images if dataset is not None and entry.is_eval]
    chosen = config.held_out.eval_dataset_id
    problems += _wrong_choice(chosen, among=[dataset.id for dataset in held_out])
    if problems or None in texts:
        return None, problems
    default, *others = [store for store in texts if store is not None]
    return DatasetFile(
        images=tuple(dataset for entry, dataset in images if dataset is not None and not entry.is_eval),
        text_embeds=default,
        eval=tuple(dataset for dataset in held_out if chosen in (None, dataset.id)),
        other_text_embeds=tuple(others),
        image_embeds=tuple(store for store in latents if store is not None),
    ), []


def _wrong_choice(chosen: str | None, *, among: list[str]) -> Iterator[Problem]:
    """A problem if no eval dataset has the id `chosen`."""
    if chosen is not None and chosen not in among:
        otherwise = f"there are {', '.join(among)}" if among else 'set "dataset_type": "eval" in its entry'
        fix = did_you_mean(chosen, among, otherwise=otherwise)
        yield Problem(option="EVAL_DATASET_ID", value=chosen, reason="no eval dataset has this id", fix=fix)


def _text_stores(
    entries: list[Entry], *, file: str, config: RunConfig, output_dir: Path, problems: list[Problem]
) -> list[TextEmbedsStore | None]:
    """The text caches, the default one first: the only entry, the one marked as default, or the output folder's."""
    read = partial(read_text_entry, config=config, output_dir=output_dir, problems=problems)
    marked = [entry for entry in entries if entry.values.get("default") is True]
    if len(entries) > 1 and len(marked) != 1:
        names = ", ".join(entry.name for entry in entries)
        reason = f"exactly one of several text_embeds entries must be the default, and {len(marked)} are"
        fix = 'set "default": true in one of them only'
        problems.append(Problem(option=f"{file}: entries {names}, key default", value="", reason=reason, fix=fix))
    if not entries:
        default = Entry(file=file, name="text-embeds", values={"id": "text-embeds"})
        return [read(default)]
    return [read(entry) for entry in sorted(entries, key=lambda entry: entry not in marked)]


def _read_list(path: Path) -> tuple[list[Any] | None, list[Problem]]:
    """The list in the file, or None and why it cannot be read."""

    def problem(reason: str, fix: str) -> tuple[None, list[Problem]]:
        return None, [Problem(option="DATALOADER_CONFIG", value=str(path), reason=reason, fix=fix)]

    try:
        listed = read_json(path)
    except MissingJson as wrong:
        return problem(wrong.reason, f"write it there ({CONFIG_FOLDER.name}/{FILE_NAME}.example shows how)")
    except WrongJson as wrong:
        return problem(wrong.reason, wrong.fix)
    if not isinstance(listed, list):
        return problem("it does not hold a list of entries", "put the entries between [ and ]")
    return listed, []
