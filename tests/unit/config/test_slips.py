"""Every name misspelt and every value of the wrong kind, once, made from the declarations: new ones are covered."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.config.datasets.entries import ACCEPTED_ONLY, EVERY_ENTRY
from helpers.config.datasets.file import read_datasets
from helpers.config.datasets.types import KINDS_OF_DATASET, S3EmbedsStore, S3TextEmbedsStore, TextEmbedsStore
from helpers.config.env.translate import env_names, translate
from helpers.config.option import Option, options_in
from helpers.config.options.launch import LaunchOptions
from helpers.config.options.training import RunOptions
from helpers.config.parse import RawSetting, read_settings
from helpers.config.train_config import RunConfig, all_options
from helpers.errors import Problem

OPTIONS = list(all_options())
ENV_OPTIONS = [*OPTIONS, *options_in("launch", LaunchOptions)]
SAYING_NAMES = {"MODEL_NAME": "some/model", "MAX_NUM_STEPS": "10"}
ENTRIES = {
    **{(kind, "image"): model for kind, model in KINDS_OF_DATASET.items()},
    ("local", "text_embeds"): TextEmbedsStore,
    ("aws", "text_embeds"): S3TextEmbedsStore,
    ("aws", "image_embeds"): S3EmbedsStore,
}


def slip_of(name: str, known: set[str]) -> str:
    """`name` with two neighboring letters in each other's place, the first from the middle on that makes no word."""
    places = sorted(range(len(name) - 1), key=lambda i: abs(i - len(name) // 2))
    swapped = (name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in places)
    return next(slip for slip in swapped if slip not in known)


def wrong_texts(option: Option) -> list[str]:
    """Texts that are no values of the option; none for a free text, which may be anything."""
    if option.kind is str and not option.choices:
        return []
    return ["penguin", *(["1.5"] if option.kind in (bool, int) else [])]


def test_every_flag_misspelt() -> None:
    known = {option.name for option in OPTIONS}
    for name in sorted(known):
        slip = slip_of(name, known)
        told = read_settings([RawSetting(name=slip, text="", spelled=f"--{slip}")]).problems[0]
        assert (told.option, told.fix) == (f"--{slip}", f"did you mean --{name}?")


def test_every_env_name_misspelt() -> None:
    known = set(env_names())
    for name in sorted(option.env for option in ENV_OPTIONS):
        slip = slip_of(name, known)
        told = translate({**SAYING_NAMES, slip: ""}, file="config.env", arguments=[]).problems[0]
        assert (told.option, told.fix) == (f"{slip} in config.env", f"did you mean {name}?")


def test_every_flag_with_a_value_of_the_wrong_kind() -> None:
    for option in OPTIONS:
        for text in wrong_texts(option):
            told = read_settings([RawSetting(name=option.name, text=text, spelled=f"--{option.name}")]).problems[0]
            assert (told.option, told.value) == (f"--{option.name}", text)
            assert told.reason
            assert told.fix


def test_every_env_name_with_a_value_of_the_wrong_kind() -> None:
    for option in ENV_OPTIONS:
        for text in wrong_texts(option):
            told = translate({**SAYING_NAMES, option.env: text}, file="config.env", arguments=[]).problems
            assert (f"{option.env} in config.env", text) in [(each.option, each.value) for each in told]


def problems(folder: Path, entry: dict[str, Any]) -> dict[str, Problem]:
    """What is wrong with the entry, by key, beside a dataset that is in order."""
    (folder / "images").mkdir(exist_ok=True)
    right = {"id": "right", "type": "local", "instance_data_dir": "images"}
    (folder / "multidatabackend.json").write_text(json.dumps([right, entry]))
    _, found = read_datasets(RunConfig(run=RunOptions(output_dir=str(folder))))
    return {problem.option.rpartition(" key ")[2]: problem for problem in found}


@pytest.mark.parametrize(("kind", "what"), ENTRIES)
def test_every_key_misspelt(tmp_path: Path, kind: str, what: str) -> None:
    known = {*ENTRIES[kind, what].model_fields, *EVERY_ENTRY, *ACCEPTED_ONLY}
    for key in sorted(known - {"type", "dataset_type"}):
        slip = slip_of(key, known)
        entry = {"id": "mine", "type": kind, "dataset_type": what, slip: "x"}
        assert problems(tmp_path, entry)[slip].fix == f"did you mean {key}?"


@pytest.mark.parametrize(("kind", "what"), ENTRIES)
def test_every_key_with_a_value_of_the_wrong_kind(tmp_path: Path, kind: str, what: str) -> None:
    for key in sorted({*ENTRIES[kind, what].model_fields, *EVERY_ENTRY, *ACCEPTED_ONLY}):
        entry = {"id": "mine", "type": kind, "dataset_type": what, key: {"no": "kind"}}
        told = problems(tmp_path, entry)
        assert key in told, f"{key} of {kind} {what} takes anything"
        assert told[key].fix
