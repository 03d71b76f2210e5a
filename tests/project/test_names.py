"""One word for one thing, the one that diffusers, peft, accelerate or torch use: in names, messages and documents."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project.sources import ROOT, name_of, repository_files

INSTEAD = {
    r"pictur": "image",
    r"data sets?\b": "dataset",
    r"optimis": "optimizer, optimize",
    r"licence": "license",
    r"quantis": "quantize",
    r"colour": "color",
    r"regularis": "regularization",
    r"normalis": "normalize",
    r"initialis": "initialize",
    r"recognis": "recognize",
    r"synchronis": "synchronize",
    r"behaviour": "behavior",
    r"neighbour": "neighbor",
    r"favour": "favor",
    r"number formats?\b": "dtype",
    r"\bcur(?:e|es|ed)\b": "fix",
    r"\banew\b": "again",
    r"\blearnt\b": "learned, trained",
    r"\breckon": "estimate, compute",
    r"\bheed": "handle, watch",
    r"held-out loss": "validation loss",
}
"""A pattern that is not to be found, and what to write instead."""

KEPT = re.compile(
    r"is_regularisation_data|(?:t5_mask|scan)_behaviour|\bpictures = \[|group\.pictures|with pictures|\"pictures\""
    r"|a picture of a \{\}|\"quantised on ",
    flags=re.IGNORECASE,
)
"""Settings, dataset keys and a group of packages that people's files name, a caption of the demo's model, and a word
of cache keys."""

TEXT = {".py", ".md", ".sh", ".toml", ".example", ".env", ".yaml", ".css", ".js", ".html", ".j2"}
NOT_OURS = ("LICENSE", "NOTICE", "tests/runs/stored_run/", "tests/project/test_names.py", "poetry.lock")
PATTERN = re.compile("|".join(f"({pattern})" for pattern in INSTEAD), flags=re.IGNORECASE)


def misnamed(text: str) -> Iterator[tuple[int, str, str]]:
    """Each line number, the word found there, and the word to use."""
    for number, line in enumerate(text.splitlines(), 1):
        for match in PATTERN.finditer(KEPT.sub("", line)):
            yield number, match[0], list(INSTEAD.values())[(match.lastindex or 1) - 1]


def our_texts() -> list[Path]:
    """The files whose words are ours."""
    return [file for file in repository_files() if file.suffix in TEXT and not name_of(file).startswith(NOT_OURS)]


def test_one_word_for_one_thing() -> None:
    found = [
        f"{name_of(file)}:{number} {word}: write {instead}"
        for file in our_texts()
        for number, word, instead in misnamed(f"{file.relative_to(ROOT)}\n" + file.read_text(encoding="utf-8"))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("text", ["a picture", "make_optimiser", "two data sets", "the cure:", "PICTURES = 1"])
def test_another_word_for_it_is_noticed(text: str) -> None:
    assert list(misnamed(text))


@pytest.mark.parametrize("text", ["is_regularisation_data", "secured", "--sd3_t5_mask_behaviour", "obscure"])
def test_what_people_have_in_their_files_stays(text: str) -> None:
    assert not list(misnamed(text))
