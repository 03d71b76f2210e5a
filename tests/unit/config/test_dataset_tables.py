"""Entries that a table tells of: what they default to, and every slip told by entry and key with its fix."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from helpers.config.datasets.file import DatasetFile, load_datasets
from helpers.config.datasets.types import CsvDataset, HuggingFaceDataset, LocalDataset
from helpers.config.options.data import DataOptions
from helpers.config.options.training import RunOptions
from helpers.config.train_config import RunConfig
from helpers.errors import ConfigError, Problem

WITH_TABLE = {"id": "mine", "type": "local", "instance_data_dir": "images", "caption_strategy": "parquet"}
TABLE = {"path": "table.parquet", "caption_column": "said"}
WEB = {"id": "mine", "type": "csv", "csv_file": "table.csv"}
HUB = {"id": "mine", "type": "huggingface", "dataset_name": "shards"}


def load(output_dir: Path, entry: dict[str, Any], **data: Any) -> DatasetFile:
    for folder in ("images", "shards"):
        (output_dir / folder).mkdir(exist_ok=True)
    for file in ("table.parquet", "table.csv"):
        (output_dir / file).touch()
    (output_dir / "multidatabackend.json").write_text(json.dumps([entry]))
    return load_datasets(RunConfig(run=RunOptions(output_dir=str(output_dir)), data=DataOptions(**data)))


def problem(output_dir: Path, entry: dict[str, Any]) -> Problem:
    with pytest.raises(ConfigError) as caught:
        load(output_dir, entry)
    (found,) = caught.value.problems
    return found


def test_what_is_left_out_is_filled_in(tmp_path: Path) -> None:
    (web,) = load(tmp_path, WEB, caption_strategy="textfile").images
    assert isinstance(web, CsvDataset)
    assert (web.csv_file, web.csv_cache_dir) == (tmp_path / "table.csv", tmp_path / "cache" / "downloads" / "mine")
    assert web.caption_strategy == "csv", "the option is for images that bring no captions"
    (hub,) = load(tmp_path, HUB).images
    assert isinstance(hub, HuggingFaceDataset)
    assert (hub.folder, hub.caption_strategy) == (tmp_path / "shards", "huggingface")
    (hub,) = load(tmp_path, HUB | {"dataset_name": "owner/name"}).images
    assert isinstance(hub, HuggingFaceDataset) and (hub.folder, hub.dataset_name) == (None, "owner/name")
    (local,) = load(tmp_path, WITH_TABLE | {"parquet": TABLE}).images
    assert isinstance(local, LocalDataset) and local.parquet is not None
    assert local.parquet.path == tmp_path / "table.parquet"


SIZED = {"metadata_backend": "parquet", "caption_strategy": "filename"}


@pytest.mark.parametrize(
    ("entry", "key", "words"),
    [
        (WITH_TABLE, "caption_strategy", "no table is set"),
        (WITH_TABLE | SIZED, "metadata_backend", "no table is set"),
        (WITH_TABLE | {"parquet": {}}, "parquet", "path in it: it is missing"),
        (WITH_TABLE | {"parquet": "table.parquet"}, "parquet", '{ "path": … }'),
        (WITH_TABLE | {"parquet": TABLE | {"caption_colum": "x"}}, "parquet", "did you mean `?caption_column"),
        (WITH_TABLE | {"parquet": TABLE | {"width_column": 1}}, "parquet", "width_column in it: it must be text"),
        (WITH_TABLE | {"parquet": TABLE | {"path": "nowhere.parquet"}}, "parquet", "there is no file"),
        (WITH_TABLE | {"parquet": TABLE | {"path": "table.csv"}}, "parquet", r"name a .parquet or .jsonl file"),
        (WITH_TABLE | {"parquet": {"path": "table.parquet"}}, "parquet", "column of captions is not set"),
        (WITH_TABLE | SIZED | {"parquet": TABLE | {"width_column": "w"}}, "parquet", "columns are not set"),
        (WITH_TABLE | {"caption_strategy": "filename", "parquet": TABLE}, "parquet", "nothing in this entry uses"),
        (WITH_TABLE | {"caption_strategy": "csv", "parquet": TABLE}, "caption_strategy", "not an allowed value"),
        (WEB | {"csv_file": "nowhere.csv"}, "csv_file", "there is no file"),
        (WEB | {"csv_file": "images"}, "csv_file", "is not a file"),
        (WEB | {"instance_data_dir": "images"}, "instance_data_dir", "there is no such key"),
        (WEB | {"caption_strategy": "textfile"}, "caption_strategy", "not an allowed value"),
        (WEB | {"metadata_backend": "parquet"}, "metadata_backend", "not an allowed value"),
        (WEB | {"csv_url_colum": "x"}, "csv_url_colum", "did you mean `?csv_url_column"),
        ({"id": "mine", "type": "csv"}, "csv_file", "it is missing"),
        (HUB | {"dataset_name": "./nowhere"}, "dataset_name", "no such folder"),
        (HUB | {"dataset_name": "a/b/c"}, "dataset_name", "no such folder"),
        (HUB | {"caption_strategy": "filename"}, "caption_strategy", "not an allowed value"),
        (HUB | {"split": 1}, "split", "text in quotes"),
    ],
)
def test_slips_are_told_by_entry_and_key(tmp_path: Path, entry: dict[str, Any], key: str, words: str) -> None:
    found = problem(tmp_path, entry)
    assert found.option == f"multidatabackend.json: entry mine, key {key}"
    assert re.search(words, f"{found.reason} {found.fix}"), f"{found.reason} {found.fix}"
