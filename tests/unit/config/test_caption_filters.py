"""Text is removed as it stands, expressions find, and `s/a/b/` puts words in place of others."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.config.datasets.caption_filters import compiled
from tests.unit.config.test_datasets import entry, load, problems


@pytest.mark.parametrize(
    ("entry", "caption", "left"),
    [
        ("a photo of ", "a photo of a photo of a cat", "a cat"),
        ("(c) 2020.", "cat (c) 2020. c 2020x", "cat  c 2020x"),
        ("what?", "what? wha", " wha"),
        (r"^\d+\s", "12 cats, 3 dogs", "cats, 3 dogs"),
        (r"\bred\b", "a red, redder cat", "a , redder cat"),
        ("s/sks/my dog/", "sks and sks", "my dog and my dog"),
        (r"s/(\w+) cat/cat of \1/", "an old cat", "an cat of old"),
        ("s/cat/dog/i", "Cat", "dog"),
        (r"s/1\/2/half/", "1/2 a cat", "half a cat"),
        ("s/cat//", "a cat", "a "),
        ("s/no end", "s/no end of it", " of it"),
    ],
)
def test_what_an_entry_does(entry: str, caption: str, left: str) -> None:
    pattern, replacement = compiled(entry)
    assert pattern.sub(replacement, caption) == left


@pytest.mark.parametrize("name", ["filters.txt", "filters.json"])
def test_caption_filters_come_from_the_entry_or_a_file_beside_the_output(tmp_path: Path, name: str) -> None:
    said = ["a photo of ", r"^\d+ ", "s/sks/my dog/"]
    text = {"id": "a", "type": "local", "dataset_type": "text_embeds"}
    (tmp_path / name).write_text(json.dumps(said) if name.endswith("json") else "\n".join(said) + "\n\n")
    for filters in (said, name, str(tmp_path / name)):
        found = load(tmp_path, [entry(tmp_path), text | {"caption_filter_list": filters}])
        assert found.text_embeds.caption_filter_list == tuple(said)


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        (["[a"], "'[a' is neither"),
        ([r"s/(a)/\2/"], "invalid group reference"),
        ("none.txt", "No such file"),
        ("words.md", "words.md is neither"),
        ("broken.json", "complete the file"),
        ([1], "text in quotes"),
    ],
)
def test_filters_of_no_use_are_told(tmp_path: Path, filters: Any, reason: str) -> None:
    (tmp_path / "broken.json").write_text("[")
    text = {"id": "a", "type": "local", "dataset_type": "text_embeds", "caption_filter_list": filters}
    (problem,) = problems(tmp_path, [entry(tmp_path), text])
    assert problem.option.endswith("entry a, key caption_filter_list") and reason in problem.reason
