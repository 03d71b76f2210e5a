"""What a run leaves opens in a diffusers of the year before, with the transformers and peft of its time."""

import sys
from pathlib import Path

import pytest

from tests.elsewhere.environments import NotInstalledError, environment, opened_with
from tests.elsewhere.exports import KINDS, write_exports
from tests.runs.harness import REPOSITORY

VERSION = "0.35.2"
CHOSEN = (
    "LoRA",
    "`LORA_RANKS`",
    "`USE_DORA`, text encoders too",
    "`pipeline`, merged",
    "a checkpoint's LoRA, alpha not rank",
)


def test_each_export_predicts_there_what_the_trainer_predicted(tmp_path: Path) -> None:
    """The packages, 90 MB, are kept within this environment's folder."""
    try:
        packages = environment(Path(sys.prefix) / "other-versions", VERSION)
    except NotInstalledError as error:
        pytest.skip(f"diffusers {VERSION} cannot be installed here: {error}")
    write_exports(tmp_path, kinds={name: KINDS[name] for name in CHOSEN})
    told = opened_with(packages, tmp_path)
    assert told["diffusers"] == VERSION
    assert told["found"].keys() == set(CHOSEN)
    assert {name: result for name, result in told["found"].items() if not isinstance(result, float)} == {}
    assert max(told["found"].values()) < 1e-4


def test_the_page_has_every_kind_of_export_and_this_version() -> None:
    page = (REPOSITORY / "documentation" / "EXPORTS.md").read_text(encoding="utf-8")
    (head,) = (line for line in page.splitlines() if line.startswith("| export |"))
    assert VERSION in head
    assert [name for name in KINDS if f"\n| {name} | " not in page] == []
