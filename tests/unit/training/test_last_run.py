"""What differs from the last run into a folder is told with what follows from it, and no secret is kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.config.datasets.file import DatasetFile
from helpers.config.datasets.key_changes import KEY_CHANGES, ORDER
from helpers.config.datasets.types import KINDS_OF_DATASET, KINDS_OF_IMAGE_STORE, KINDS_OF_TEXT_STORE
from helpers.config.load import load_config
from helpers.config.train_config import RunConfig, all_options
from helpers.ranks import SingleProcess
from helpers.reporting.events import Notice
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.config_changes import FILE, compare_with_last_run, relevant_dataset_settings
from tests.runs.harness import image_dataset
from tests.unit.training.small_run import Events


def rule(name: str) -> str:
    """What the option's declaration says of a change."""
    return next(option.on_change.describe() for option in all_options() if option.name == name)


def told(output: Path, *words: str, entries: list[dict[str, Any]] | None = None, rank: int = 0) -> list[str]:
    """What a start with these settings tells of the one before."""
    config, files = said(output, *words, entries=entries)
    events = Events()
    compare_with_last_run(config, files, ranks=SingleProcess(rank=rank), reporter=Reporter([events]))
    return [event.text.strip() for event in events if isinstance(event, Notice)]


def said(output: Path, *words: str, entries: list[dict[str, Any]] | None = None) -> tuple[RunConfig, DatasetFile]:
    (output / "datasets" / "colors").mkdir(parents=True, exist_ok=True)
    (output / "multidatabackend.json").write_text(json.dumps(entries or [image_dataset()]))
    least = ("--pretrained_model_name_or_path=some/model", f"--output_dir={output}", "--max_train_steps=5")
    return load_config([*least, *words])


def test_each_difference_is_told_once_with_what_follows(tmp_path: Path) -> None:
    assert told(tmp_path) == []
    assert told(tmp_path) == []
    lines = told(tmp_path, "--seed=7", "--learning_rate=1e-3", "--validation_prompt=a cat")
    assert lines == [
        f"changed since the last run into {tmp_path}:",
        f"TRAINING_SEED: 42 before, 7 now; {rule('seed')}",
        f"LEARNING_RATE: 0.0001 before, 0.001 now; {rule('learning_rate')}",
        f"VALIDATION_PROMPT: none before, a cat now; {rule('validation_prompt')}",
    ]
    assert told(tmp_path, "--seed=7", "--learning_rate=1e-3", "--validation_prompt=a cat") == []


def test_a_default_that_has_changed_since_is_told(tmp_path: Path) -> None:
    assert told(tmp_path) == []
    record = json.loads((tmp_path / FILE).read_text())
    older = {**record["settings"]["objective"], "flow_shift": ""}
    (tmp_path / FILE).write_text(json.dumps({**record, "settings": {**record["settings"], "objective": older}}))
    assert told(tmp_path)[1:] == [f"FLOW_SHIFT: model before, 1.0 now; {rule('flow_shift')}"]
    assert told(tmp_path) == []


def test_data_sets_are_told_by_id_and_key(tmp_path: Path) -> None:
    assert told(tmp_path) == []
    changed = [image_dataset(resolution=0.5, repeats=3), image_dataset(id="more")]
    assert told(tmp_path, entries=changed)[1:] == [
        f"dataset colors, resolution: 1.0 before, 0.5 now; {KEY_CHANGES['resolution'].describe()}",
        f"dataset colors, repeats: 0 before, 3 now; {ORDER.describe()}",
        f"dataset more: not there before, there now; {ORDER.describe()}",
    ]
    (gone,) = told(tmp_path, entries=changed[:1])[1:]
    assert gone.startswith("dataset more: there before, not there now")


def test_only_the_first_rank_tells_and_remembers(tmp_path: Path) -> None:
    assert told(tmp_path, rank=1) == []
    assert not (tmp_path / FILE).exists()


def test_a_file_of_another_version_or_cut_short_is_no_reason_to_stop(tmp_path: Path) -> None:
    assert told(tmp_path) == []
    file = tmp_path / FILE
    kept = json.loads(file.read_text())
    del kept["settings"]["run"]["seed"], kept["datasets"]["colors"]["repeats"]
    kept["settings"]["gone"] = {"name": "value"}
    file.write_text(json.dumps(kept))
    assert told(tmp_path) == []
    for text in (file.read_text()[:99], "[]", '{"settings": [], "datasets": 1}'):
        file.write_text(text)
        assert told(tmp_path, "--seed=7") == []


def test_no_secret_is_kept(tmp_path: Path) -> None:
    address = "--revision=https://me:PLANTED@host/x?signature=PLANTED"
    assert told(tmp_path, address) == []
    kept = (tmp_path / FILE).read_text()
    assert "https://host/x" in kept
    assert "PLANTED" not in kept


def test_a_checkpoint_remembers_what_decides_and_neither_places_nor_keys(tmp_path: Path) -> None:
    bucket = {
        "id": "bucket",
        "type": "aws",
        "aws_bucket_name": "PLANTED-bucket",
        "aws_endpoint_url": "http://127.0.0.1:1",
        "aws_access_key_id": "PLANTED-name",
        "aws_secret_access_key": "PLANTED-secret",
        "flip": True,
        "instance_prompt": "a dog",
    }
    texts = {"id": "texts", "type": "local", "dataset_type": "text_embeds", "cache_dir": "PLANTED-folder"}
    kept_back = image_dataset(id="kept-back", dataset_type="eval", cache_dir_vae="cache/kept-back")
    entries = [image_dataset(caption_shuffle=True), bucket, {**texts, "caption_filter_list": ["a"]}, kept_back]
    decides = relevant_dataset_settings(said(tmp_path, entries=entries)[1])
    assert "PLANTED" not in json.dumps(decides) and str(tmp_path) not in json.dumps(decides)
    assert decides.keys() == {"colors", "bucket", "texts"}, "what is kept back decides nothing"
    assert decides["colors"]["caption_shuffle"] == "true" and decides["bucket"]["instance_prompt"] == "a dog"
    assert decides["bucket"]["flip"] == "true" and decides["texts"] == {"caption_filter_list": '["a"]'}


def test_every_key_of_a_dataset_has_its_rule() -> None:
    """A new key is not forgotten, and a rule for a key that is gone neither; options can't be declared without one."""
    kinds = (*KINDS_OF_DATASET.values(), *KINDS_OF_TEXT_STORE.values(), *KINDS_OF_IMAGE_STORE.values())
    assert KEY_CHANGES.keys() == {key for kind in kinds for key in kind.model_fields}


@pytest.mark.parametrize("name", ["sd3", "ema_device"])
def test_what_changes_no_weight_says_so(name: str) -> None:
    (found,) = (option for option in all_options() if option.name == name)
    assert found.on_change.describe() == "what is trained does not change"


def test_an_option_and_the_key_of_its_name_mean_the_same() -> None:
    options = {option.name: option.on_change for option in all_options() if option.group == "data"}
    shared = [name for name in options if name in KEY_CHANGES and name != "minimum_image_size"]
    assert "caption_shuffle" in shared
    assert [options[name].invalidates for name in shared] == [KEY_CHANGES[name].invalidates for name in shared]
