"""A LyCORIS file is read as people write it, and a slip in it is told of before anything is loaded."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.config.files.lycoris import EXAMPLE, read_lycoris

PRESET = {"target_module": ["Attention"]}


def read(folder: Path, said: Any) -> list[str]:
    """The problems of a file that says this, in words."""
    file = folder / "lycoris.json"
    file.write_text(said if isinstance(said, str) else json.dumps(said))
    config, problems = read_lycoris(file)
    assert (config is None) == bool(problems)
    return [str(problem) for problem in problems]


def test_the_example_is_a_lokr() -> None:
    config, problems = read_lycoris(Path(__file__).parents[3] / EXAMPLE)
    assert config and not problems
    assert (config.algo, config.linear_dim, config.linear_alpha, config.arguments) == ("lokr", 10000, 1, {"factor": 16})
    assert config.preset["module_algo_map"]["FeedForward"] == {"factor": 8}


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ({"algo": "lokr", "apply_preset": PRESET, "liner_dim": 4}, "did you mean linear_dim"),
        ({"algo": "lokrr", "apply_preset": PRESET}, "did you mean lokr"),
        ({"algo": "boft", "apply_preset": PRESET}, "use one of lokr, loha, full, lora"),
        ({"apply_preset": PRESET}, "not set"),
        ({"algo": "lokr", "linear_dim": "4", "apply_preset": PRESET}, "it is not a number"),
        ({"algo": "lokr", "multiplier": 0.5, "apply_preset": PRESET}, "generate different images"),
        ({"algo": "lokr"}, "the layers are not set"),
        ({"algo": "lokr", "apply_preset": {**PRESET, "target_modul": []}}, "did you mean target_module"),
        ({"algo": "lokr", "apply_preset": {"module_algo_map": {"Attention": {"factr": 4}}}}, "did you mean factor"),
        ([], "does not hold one adapter"),
        ("{", "it is not JSON"),
    ],
)
def test_a_slip_is_told_with_its_cure(tmp_path: Path, said: Any, hint: str) -> None:
    (problem,) = read(tmp_path, said)
    assert hint in problem


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    config, (problem,) = read_lycoris(tmp_path / "none.json")
    assert config is None and "there is no such file" in problem.reason and EXAMPLE in problem.fix
