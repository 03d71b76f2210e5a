"""Flags and dataset file are judged together: one round, and nothing told that is only another mistake's echo."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.config.load import load_config
from helpers.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parents[3]
MODEL = "--pretrained_model_name_or_path=some/model"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    return with_entry(tmp_path)


def with_entry(output: Path, **more: object) -> Path:
    entry = {"id": "mine", "type": "local", "instance_data_dir": "images", **more}
    (output / "multidatabackend.json").write_text(json.dumps([entry]))
    return output


def told(*words: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(words)
    return [problem.option.removeprefix("multidatabackend.json: entry mine, key ") for problem in caught.value.problems]


def test_what_is_right_comes_back_whole(output: Path) -> None:
    config, files = load_config([MODEL, f"--output_dir={output}", "--max_train_steps=3"])
    assert (config.run.max_train_steps, [each.id for each in files.images]) == (3, ["mine"])


def test_flags_options_and_dataset_file_in_one_round(output: Path) -> None:
    with_entry(output, crop="False", resolutoin=1)
    flags = (MODEL, f"--output_dir={output}", "--lora_rnk=4", "--lora_alpha=x")
    assert told(*flags) == ["--lora_rnk", "--lora_alpha", "MAX_NUM_STEPS", "crop", "resolutoin"]


def test_a_misspelt_name_is_one_mistake_and_its_value_is_judged_with_the_rest(output: Path) -> None:
    flags = ("--pretrained_model_name_or_pat=some/model", f"--output_dri={output}", "--max_train_stpes=3")
    assert told(*flags) == [flag.partition("=")[0] for flag in flags]
    with_entry(output, crop="False")
    assert told(*flags) == [*(flag.partition("=")[0] for flag in flags), "crop"]


def test_all_of_it_is_told_before_torch_is_imported(output: Path) -> None:
    with_entry(output, crop="False")
    flags = [MODEL, f"--output_dir={output}", "--lora_rnk=4", "--max_train_steps=3"]
    code = f"import sys, train; print(train.main({flags}), sorted({{'torch', 'accelerate'}} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "1 []"
    assert "2 settings need a change" in run.stderr
