"""Datasets that tables tell of, through real runs: downloaded, out of parquet files, with sizes from a table."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tests.runs.harness import COLORS, SmallRun, draw_set, encoded, image_dataset, same
from tests.runs.web_server import serving


@pytest.fixture
def run(tmp_path: Path, tiny_pipeline: Path) -> SmallRun:
    draw_set(tmp_path / "output" / "datasets" / "colors")
    return SmallRun(tmp_path, tiny_pipeline, settings={"max_train_steps": 2})


def images(run: SmallRun) -> dict[str, bytes]:
    """The seven images by color."""
    folder = run.output / "datasets" / "colors"
    return {name: (folder / f"{name} square.png").read_bytes() for name in COLORS}


def test_images_are_downloaded_once_and_a_dead_address_is_named(
    run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    found = images(run)
    table = run.output / "table.tsv"
    with serving({f"/{name}.png": content for name, content in found.items()}) as site:
        with table.open("w", newline="") as file:
            rows = csv.writer(file, delimiter="\t")
            rows.writerow(["caption", "address"])
            rows.writerows([f"a {name}\tsquare", site.url(f"/{name}.png?key=SECRET")] for name in found)
            rows.writerow(["dead", site.url("/nowhere.png?key=SECRET")])
        entry = {"id": "web", "type": "csv", "csv_file": "table.tsv", "csv_url_column": "address"}
        run.datasets = [{**entry, "cache_dir_vae": "cache/vae"}]
        assert run.start(max_train_steps=4) == 0
        straight = run.weights()
        said = capsys.readouterr().out
        assert "download images of web: 8 images" in said
        assert "dataset web: 7 images" in said
        assert "cannot be downloaded: the server answers 404 Not Found: 1 (127.0.0.1" in said and "nowhere.png" in said
        assert "SECRET" not in said
        assert encoded(said)["clip_l"] == 8
        shutil.rmtree(run.output / "checkpoint-4")
        assert sum(site.asked.values()) == 8
    assert run.start(max_train_steps=4) == 0, "everything is here: nobody is asked"
    said = capsys.readouterr().out
    assert "download images of" not in said and encoded(said) == {}
    assert same(run.weights(), straight), "resumed at step 2"


def test_images_in_parquet_files_train_as_those_in_a_folder_do(
    run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = run.output / "shards" / "data"
    shards.mkdir(parents=True)
    rows = sorted(images(run).items(), key=lambda item: f"{item[0]} square.png")
    for number, few in enumerate((rows[:4], rows[4:])):
        embedded = [{"bytes": content, "path": f"{name}.png"} for name, content in few]
        columns = {"image": embedded, "text": [f"{name} square" for name, _ in few]}
        parquet.write_table(pa.table(columns), shards / f"train-{number:05}-of-00002.parquet", row_group_size=2)
    (shards / "test-00000-of-00001.parquet").write_bytes(b"not looked at")
    run.datasets = [image_dataset()]
    assert run.start(max_train_steps=4) == 0
    from_folder = run.weights()
    entry = {"id": "colors", "type": "huggingface", "dataset_name": "shards", "caption_column": "text"}
    run.datasets = [{**entry, "cache_dir_vae": "cache/vae"}]
    capsys.readouterr()
    assert run.start(max_train_steps=4, resume_from_checkpoint="none") == 0
    said = capsys.readouterr().out
    assert encoded(said) == {"colors": 7}, "the captions are the same"
    assert same(run.weights(), from_folder)
    shutil.rmtree(run.output / "checkpoint-4")
    assert run.start(max_train_steps=4) == 0
    assert encoded(capsys.readouterr().out) == {}
    assert same(run.weights(), from_folder), "resumed at step 2"


def test_sizes_and_captions_come_from_a_table(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run.output / "datasets" / "colors"
    rows = []
    for name in COLORS:
        width, height = Image.open(folder / f"{name} square.png").size
        rows.append({"name": f"{name} square", "said": [f"a {name}", f"all {name}"], "w": width, "h": height})
    rows[0]["w"] += 1  # red is not of this size
    del rows[-1]  # nothing is told of purple
    rows.append({"name": "nowhere", "said": ["not there"], "w": 10, "h": 10})
    (run.output / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns: dict[str, Any] = {"filename_column": "name", "caption_column": "said"}
    sizes = {"width_column": "w", "height_column": "h"}
    table = {"path": "table.jsonl", **columns, **sizes}
    both = {"metadata_backend": "parquet", "caption_strategy": "parquet"}
    run.datasets = [image_dataset(**both, parquet=table)]
    assert run.start() == 0
    said = capsys.readouterr().out
    assert "has no row in the table: 1 (purple square.png)" in said
    assert "1 row of the table" in said and "without a matching file" in said
    assert "red square.png is left out: is not of the size it was taken for: it is 80x80, expected 81x80" in said
    assert encoded(said) == {"colors": 6, **dict.fromkeys(("clip_l", "clip_g", "t5"), 13)}
    learned = run.weights()
    assert run.start(resume_from_checkpoint="none") == 0
    again = capsys.readouterr().out
    assert encoded(again) == {} and "red square.png" in again, "known without decoding it again, and still named"
    assert same(run.weights(), learned)


def test_a_mistaken_column_is_told_with_those_there(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    (run.output / "table.csv").write_text("link,words\nhttp://127.0.0.1/a.png,a\n")
    run.datasets = [{"id": "web", "type": "csv", "csv_file": "table.csv"}]
    assert run.start() == 1
    error = capsys.readouterr().err
    assert "table.csv has no column url, caption; its columns are: link, words" in error
    assert "Traceback" not in error
