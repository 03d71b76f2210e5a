"""A library of prompts says all that is wrong with it at once, and no two of its images share a file."""

import json
from pathlib import Path

import pytest

from helpers.config.files.prompt_library import BUILT_IN, LibraryPrompt, file_names, read_prompts

EXAMPLE = Path(__file__).resolve().parents[3] / "config" / "user_prompt_library.json.example"


def test_the_example_is_read() -> None:
    prompts, problems = read_prompts(EXAMPLE)
    assert problems == []
    assert prompts["cat"] == LibraryPrompt(prompt="a cat on a windowsill, in the words of your captions")
    assert (prompts["dog"].seed, prompts["dog"].resolution, prompts["dog"].steps) == (7, "1024x768", 20)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"promt": "a cat"}, ["did you mean prompt?", "it has no prompt"]),
        ({"prompt": 3}, ["not text"]),
        ({"prompt": "a", "seed": -1}, ["not an integer of at least 0"]),
        ({"prompt": "a", "steps": 0}, ["not an integer of at least 1"]),
        ({"prompt": "a", "seed": True, "guidance": "3"}, ["not an integer", "not a number of at least 0"]),
        ({"prompt": "a", "resolution": "1000"}, ["1000"]),
        (["a cat"], ["it is not a prompt"]),
    ],
)
def test_every_slip_is_told(entry: object, said: list[str], tmp_path: Path) -> None:
    file = tmp_path / "library.json"
    file.write_text(json.dumps({"first": entry, "second": "fine"}))
    prompts, problems = read_prompts(file)
    assert prompts == {}
    told = "\n".join(str(problem) for problem in problems)
    assert all(each in told for each in said)
    assert len(problems) == len(said)
    assert all("first" in problem.option for problem in problems)


@pytest.mark.parametrize("content", [None, "{", "[]", "{}"])
def test_a_file_that_holds_no_prompts_is_refused(content: str | None, tmp_path: Path) -> None:
    file = tmp_path / "library.json"
    if content is not None:
        file.write_text(content)
    assert len(read_prompts(file)[1]) == 1


def test_no_two_names_become_one_file() -> None:
    names = ["cat", "Cat", "a/b", "a b", "é", "日本", "x" * 200, "x" * 201, "", "..", "cat*"]
    found = [name.casefold() for name in file_names(names)]
    assert len(set(found)) == len(names)
    assert all(name and len(name) < 80 and not set(name) & set('/\\*?:"<>|. ') for name in found)
    assert list(file_names(BUILT_IN)) == list(BUILT_IN)
