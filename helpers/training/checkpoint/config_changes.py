"""Remembers what a run was told, beside what it makes, so that the next one into the same folder tells what differs."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from helpers.config.datasets.file import DatasetFile
from helpers.config.secrets import SECRET_NAME
from helpers.config.train_config import RunConfig, all_options
from helpers.config.option import written
from helpers.ranks import Ranks
from helpers.reporting.events import Notice
from helpers.reporting.reporter import Reporter
from helpers.training import consequences
from helpers.training.checkpoint.compatibility import KEYS_OF_NO_ACCOUNT
from helpers.training.checkpoint.resume import refuse_other_settings

FILE = Path("logs", "last_run.json")
SETTINGS, DATASETS = "settings", "datasets"
NOT_THERE = "not there"
SECRET_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@|\?\S*")
"""Who may fetch from an address: the name and password before its host, and what follows a question mark."""

Said = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Texts by kind (`settings`, `datasets`), group or dataset id, and name."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Something said that is another now than in the run before; follows: what comes of it."""

    name: str
    before: str
    now: str
    follows: str

    def __str__(self) -> str:
        return f"{self.name}: {self.before or 'none'} before, {self.now or 'none'} now; {self.follows}"


def look_back(config: RunConfig, files: DatasetFile, *, ranks: Ranks, reporter: Reporter) -> None:
    """Tell what differs from the last run into this output folder, and remember this one, unless it is a dry run.

    Raises CheckpointError where the checkpoint to continue from belongs to other settings, before anything is encoded.
    """
    file = config.run.output_folder / FILE
    now = what_was_said(config, files)
    if ranks.rank == 0:
        found = list(differences(_read(file), now))
        if found:
            reporter.hear(Notice(text=f"since the last run into {config.run.output_dir}:"))
        for difference in found:
            reporter.hear(Notice(text=f"  {difference}"))
    refuse_other_settings(config)
    if ranks.rank == 0 and not config.run.dry_run:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


def what_was_said(config: RunConfig, files: DatasetFile) -> Said:
    """Every setting by group and every dataset's keys by its id, as texts without secrets."""
    settings: dict[str, dict[str, str]] = {}
    for option in all_options():
        value = getattr(getattr(config, option.group), option.name)
        settings.setdefault(option.group, {})[option.name] = _text(option.name, value)
    entries = (*files.prepared, *files.text_stores, *files.image_embeds)
    return {SETTINGS: settings, DATASETS: {entry.id: _keys(entry) for entry in entries}}


def what_decides(files: DatasetFile) -> Mapping[str, Mapping[str, str]]:
    """The keys that decide what is trained on and how it is shown, by dataset id, for checkpoints to remember."""
    return {
        entry.id: {key: text for key, text in _keys(entry).items() if key not in KEYS_OF_NO_ACCOUNT}
        for entry in (*files.images, *files.text_stores)
    }


def differences(before: Said, now: Said) -> Iterator[Difference]:
    """What differs, in the order of the declarations; a name that only one of the two knows can't be compared."""
    envs = {option.name: option.env for option in all_options()}
    for group, settings in now.get(SETTINGS, {}).items():
        for name, text in settings.items():
            old = before.get(SETTINGS, {}).get(group, {}).get(name, text)
            if old != text:
                follows = consequences.of_option(name, group=group)
                yield Difference(name=envs[name], before=old, now=text, follows=follows)
    old_sets, new_sets = before.get(DATASETS, {}), now.get(DATASETS, {})
    for dataset_id in [*new_sets, *(gone for gone in old_sets if gone not in new_sets)] if old_sets else []:
        yield from _of_dataset(dataset_id, before=old_sets.get(dataset_id), now=new_sets.get(dataset_id))


def _of_dataset(
    dataset_id: str, *, before: Mapping[str, str] | None, now: Mapping[str, str] | None
) -> Iterator[Difference]:
    name = f"dataset {dataset_id}"
    if before is None:
        yield Difference(name=name, before=NOT_THERE, now="there", follows=consequences.MIX)
    elif now is None:
        yield Difference(name=name, before="there", now=NOT_THERE, follows=f"{consequences.MIX}; its cache stays")
    else:
        for key, text in now.items():
            if before.get(key, text) != text:
                follows = consequences.of_key(key)
                yield Difference(name=f"{name}, {key}", before=before[key], now=text, follows=follows)


def _keys(entry: BaseModel) -> dict[str, str]:
    return {key: _text(key, value) for key, value in entry.model_dump(mode="json").items()}


def _text(name: str, value: Any) -> str:
    if SECRET_NAME.search(name):
        return ""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else written(value)
    return SECRET_IN_ADDRESS.sub("", text) if "://" in text else text


def _read(file: Path) -> Said:
    """What the last run was told; nothing where there was none, or where it was stopped while writing this."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return {kind: {name: dict(values) for name, values in said[kind].items()} for kind in (SETTINGS, DATASETS)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
