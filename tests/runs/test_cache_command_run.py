"""`python -m helpers.cache` counts what a run's caches hold, and removes exactly what the run does not use."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from helpers.cache import __main__ as command
from tests.buckets import BucketServer
from tests.runs.harness import REPOSITORY, SmallRun, draw_set, encoded, image_dataset
from tests.runs.test_bucket_run import far_run
from tests.runs.test_bucket_run import server as server

LINE = re.compile(r"^(.+): ([\d,]+) entr\w+, \d+ MB; (not used|removed): ([\d,]+) entr\w+, \d+ MB$", re.MULTILINE)


@pytest.fixture
def run(tmp_path: Path, tiny_pipeline: Path) -> SmallRun:
    draw_set(tmp_path / "output" / "datasets" / "colors")
    return SmallRun(tmp_path, tiny_pipeline)


@pytest.fixture(autouse=True)
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An env file that sets nothing: these runs are set by flags."""
    (tmp_path / "config.env").write_text("")
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setenv("ENV", os.path.relpath(tmp_path, "config"))


def listed(
    run: SmallRun, capsys: pytest.CaptureFixture[str], *words: str, **more: Any
) -> dict[str, tuple[int, str, int]]:
    """The entries of each cache by the last folder of its name, the verb, and how many of them it is about."""
    capsys.readouterr()
    assert command.main([*words, *run.arguments(**more)]) == 0
    found = LINE.findall(capsys.readouterr().out)
    return {Path(where).name: (int(entries), verb, int(unused)) for where, entries, verb, unused in found}


def test_what_no_dataset_uses_is_listed_and_only_it_removed(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.start(cache_only=True) == 0
    assert listed(run, capsys) == {"vae": (7, "not used", 0), "text": (24, "not used", 0)}
    (run.output / "datasets" / "colors" / "red square.png").unlink()
    held = {"vae": (7, "not used", 1), "text": (24, "not used", 3)}
    assert listed(run, capsys) == held == listed(run, capsys), "listing removes nothing"
    assert listed(run, capsys, "--prune") == {"vae": (7, "removed", 1), "text": (24, "removed", 3)}
    assert listed(run, capsys) == {"vae": (6, "not used", 0), "text": (21, "not used", 0)}
    assert run.start(max_train_steps=1) == 0
    output = capsys.readouterr().out
    assert not encoded(output) and "WARNING" not in output


def test_entries_of_other_settings_are_not_used(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.start(cache_only=True) == 0
    assert listed(run, capsys, vae_dtype="bf16")["vae"] == (7, "not used", 7)
    assert listed(run, capsys, tokenizer_max_length=80)["text"] == (24, "not used", 8)
    assert listed(run, capsys, validation_prompt="a square") == {"vae": (7, "not used", 0), "text": (24, "not used", 0)}
    run.datasets = [image_dataset(resolution=48)]
    assert listed(run, capsys)["vae"] == (7, "not used", 7)


def test_a_cache_that_is_to_be_trusted_is_used_by_its_dataset(
    run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run.datasets = [image_dataset(flip=True)]
    assert run.start(cache_only=True) == 0
    run.datasets = [image_dataset(flip=True, skip_file_discovery="vae,text")]
    assert listed(run, capsys) == {"vae": (14, "not used", 0), "text": (24, "not used", 0)}


def test_where_a_dataset_cannot_be_opened_nothing_is_removed(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.start(cache_only=True) == 0
    before = sorted((run.output / "cache").rglob("shard-*"))
    for image in (run.output / "datasets" / "colors").iterdir():
        image.unlink()
    assert command.main(["--prune", *run.arguments()]) == 1
    assert "colors" in capsys.readouterr().err
    assert sorted((run.output / "cache").rglob("shard-*")) == before


def test_caches_in_a_bucket_are_listed_without_fetching_them_and_pruned(
    server: BucketServer, tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = far_run(tmp_path / "far", tiny_pipeline, server.endpoint)
    assert run.start(cache_only=True) == 0
    server.client.delete_object(Bucket="images", Key="sets/colors/red square.png")
    for mirrored in run.output.rglob("shard-*"):
        mirrored.unlink()
    held = listed(run, capsys)
    assert [(entries, unused) for entries, _, unused in held.values()] == [(7, 1), (45, 6)]
    assert not list(run.output.rglob("shard-*"))
    assert [verb for _, verb, _ in listed(run, capsys, "--prune").values()] == ["removed", "removed"]
    assert [(entries, unused) for entries, _, unused in listed(run, capsys).values()] == [(6, 0), (39, 0)]
    assert sum(name.startswith("vae/shard") for name in server.names("caches")) == 6
    assert run.start(max_train_steps=1) == 0
    assert not encoded(capsys.readouterr().out)


def test_the_command_reads_the_env_file_and_needs_no_gpu(run: SmallRun, tmp_path: Path) -> None:
    settings = {name: value for name, _, value in (word[2:].partition("=") for word in run.arguments())}
    (tmp_path / "config.env").write_text(
        f'MODEL_NAME="{settings["pretrained_model_name_or_path"]}"\nOUTPUT_DIR="{settings["output_dir"]}"\n'
        "RESOLUTION=64\nRESOLUTION_TYPE=pixel\nMAX_NUM_STEPS=6\n"
    )
    command = [sys.executable, "-m", "helpers.cache"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    found = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert [unused for _, _, _, unused in LINE.findall(found.stdout)] == ["0", "0"]
    wrong = subprocess.run([*command, "--prunes"], cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert wrong.returncode == 1 and "--prunes" in wrong.stderr
