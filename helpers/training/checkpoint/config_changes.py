"""Stores a run's settings in its output folder, so that the next run into it reports what has changed."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from helpers.config.datasets.file import DatasetFile
from helpers.config.datasets.key_changes import KEY_CHANGES, ORDER
from helpers.config.option import OnResume, recorded, written
from helpers.config.secrets import SECRET_NAME
from helpers.config.train_config import RunConfig, all_options
from helpers.ranks import Ranks
from helpers.reporting.events import Change, Notice
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.compatibility import NOT_THERE
from helpers.training.checkpoint.resume import report_changed_settings

FILE = Path("logs", "last_run.json")
SETTINGS, DATASETS = "settings", "datasets"
SECRET_IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]+@|\?\S*")
"""The secret parts of a URL: the name and password before its host, and the query after a question mark."""

ConfigSnapshot = Mapping[str, Mapping[str, Mapping[str, str]]]
"""Texts by kind (`settings`, `datasets`), group or dataset id, and name."""


def compare_with_last_run(config: RunConfig, files: DatasetFile, *, ranks: Ranks, reporter: Reporter) -> None:
    """Report what has changed since the checkpoint to resume from and since the last run, each change once.

    Stores the settings for the next run, unless this is a dry run. Raises CheckpointError, before anything is encoded,
    if a change makes it impossible to resume; then every change since the last run is reported first.
    """
    file = config.run.output_folder / FILE
    now = config_snapshot(config, files)
    reported: tuple[Change, ...] = ()
    try:
        reported = report_changed_settings(
            config,
            files,
            dataset_settings=relevant_dataset_settings(files),
            reporter=reporter if ranks.rank == 0 else Reporter(),
        )
    finally:
        if ranks.rank == 0:
            changes = differences(_read(file), now, reported=[change.name for change in reported])
            _report(list(changes), output_dir=config.run.output_dir, reporter=reporter)
    if ranks.rank == 0 and not config.run.dry_run:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")


def _report(changes: Sequence[Change], *, output_dir: str, reporter: Reporter) -> None:
    if changes:
        reporter.handle(Notice(text=f"changed since the last run into {output_dir}:"))
    for change in changes:
        reporter.handle(Notice(text=f"  {change}"))


def config_snapshot(config: RunConfig, files: DatasetFile) -> ConfigSnapshot:
    """Every setting by group and every dataset's keys by its id, as texts without secrets."""
    settings: dict[str, dict[str, str]] = {}
    for option in all_options():
        value = getattr(getattr(config, option.group), option.name)
        settings.setdefault(option.group, {})[option.name] = _text(option.name, value)
    entries = (*files.all_images, *files.text_stores, *files.image_embeds)
    return {SETTINGS: settings, DATASETS: {entry.id: _keys(entry) for entry in entries}}


def relevant_dataset_settings(files: DatasetFile) -> Mapping[str, Mapping[str, str]]:
    """The keys that affect training, by dataset id, as checkpoints store them."""
    return {
        entry.id: {key: text for key, text in _keys(entry).items() if KEY_CHANGES[key].on_resume is not OnResume.IGNORE}
        for entry in (*files.images, *files.text_stores)
    }


def differences(before: ConfigSnapshot, now: ConfigSnapshot, *, reported: Collection[str] = ()) -> Iterator[Change]:
    """The changes in the order of the declarations, without those whose names are in `reported`.

    A name that only one of the two has is not compared.
    """
    for option in all_options():
        text = now.get(SETTINGS, {}).get(option.group, {}).get(option.name, "")
        old = recorded(option, before.get(SETTINGS, {}), otherwise=text)
        if old != text and option.name not in reported:
            yield Change(name=option.env, before=old, now=text, effect=option.on_change.describe())
    old_sets, new_sets = before.get(DATASETS, {}), now.get(DATASETS, {})
    for dataset_id in [*new_sets, *(removed for removed in old_sets if removed not in new_sets)] if old_sets else []:
        changes = _of_dataset(dataset_id, before=old_sets.get(dataset_id), now=new_sets.get(dataset_id))
        yield from (change for change in changes if change.name not in reported)


def _of_dataset(
    dataset_id: str, *, before: Mapping[str, str] | None, now: Mapping[str, str] | None
) -> Iterator[Change]:
    name = f"dataset {dataset_id}"
    if before is None:
        yield Change(name=name, before=NOT_THERE, now="there", effect=ORDER.describe())
    elif now is None:
        yield Change(name=name, before="there", now=NOT_THERE, effect=f"{ORDER.describe()}; its cache stays")
    else:
        for key, text in now.items():
            if before.get(key, text) != text:
                effect = KEY_CHANGES[key].describe()
                yield Change(name=f"{name}, {key}", before=before[key], now=text, effect=effect)


def _keys(entry: BaseModel) -> dict[str, str]:
    return {key: _text(key, value) for key, value in entry.model_dump(mode="json").items()}


def _text(name: str, value: Any) -> str:
    if SECRET_NAME.search(name):
        return ""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, list | tuple | dict) else written(value)
    return SECRET_IN_ADDRESS.sub("", text) if "://" in text else text


def _read(file: Path) -> ConfigSnapshot:
    """The last run's settings; empty if there was no run, or its file is incomplete."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return {kind: {name: dict(values) for name, values in stored[kind].items()} for kind in (SETTINGS, DATASETS)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
