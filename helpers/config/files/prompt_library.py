"""The prompts of validation images: from the settings, from a file, and built in."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from helpers.config.files.json_file import WrongJson, read_json
from helpers.config.option import MAX_NUMBER, MAX_SEED, MAX_STEPS
from helpers.config.suggestions import did_you_mean
from helpers.errors import Problem

LONGEST_NAME = 48


@dataclass(frozen=True, kw_only=True)
class LibraryPrompt:
    """A prompt and settings of its own; None to use those of the run."""

    prompt: str
    negative_prompt: str | None = None
    seed: int | None = None
    resolution: str | None = None
    guidance: float | None = None
    steps: int | None = None


BUILT_IN: Mapping[str, LibraryPrompt] = {
    name: LibraryPrompt(prompt=prompt)
    for name, prompt in (
        ("portrait", "a portrait photograph of an old fisherman in a woollen cap, window light"),
        ("hands", "two hands knitting a red scarf, close-up photograph"),
        ("group", "three children building a sand castle on a beach, photograph"),
        ("cat", "a gray cat asleep on a stack of books, photograph"),
        ("street", "a rainy street in Tokyo at night, neon reflections on the asphalt"),
        ("landscape", "a mountain lake at sunrise, mist over the water, wide angle"),
        ("interior", "a small kitchen with copper pots and a window towards a garden"),
        ("still-life", "a glass of water, three lemons and a blue plate on a linen cloth, oil painting"),
        ("text", 'a wooden sign that says "OPEN ON SUNDAY" hanging on a shop door'),
        ("counting", "five yellow tulips in a white vase before a dark wall"),
        ("drawing", "a pencil sketch of a steam locomotive, fine hatching"),
        ("poster", "a flat vector poster of a fox in a forest, four colors"),
    )
}


def read_prompts(path: Path) -> tuple[dict[str, LibraryPrompt], list[Problem]]:
    """The prompts in the file by name, and every problem with it."""
    fix = "name a JSON file such as config/user_prompt_library.json.example"
    try:
        content = read_json(path, example="config/user_prompt_library.json.example")
    except WrongJson as wrong:
        return {}, [wrong.problem("USER_PROMPT_LIBRARY", value=str(path))]
    if not isinstance(content, dict) or not content:
        return {}, [_unreadable(path, "it does not hold prompts by name between { and }", fix)]
    problems = [problem for name, entry in content.items() for problem in _wrong(name, entry, file=path.name)]
    if problems:
        return {}, problems
    return {name: LibraryPrompt(**_entry(entry)) for name, entry in content.items()}, []


def file_names(names: Iterable[str]) -> Iterator[str]:
    """For each of `names` a valid file name on every file system; all differ, also without case."""
    taken: set[str] = set()
    for name in names:
        safe = re.sub(r"[^A-Za-z0-9_-]+", "-", name)[:LONGEST_NAME].strip("-")
        if not safe or safe != name or safe.casefold() in taken:
            safe = f"{safe or 'prompt'}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"
        taken.add(safe.casefold())
        yield safe


def _unreadable(path: Path, reason: str, fix: str) -> Problem:
    return Problem(option="USER_PROMPT_LIBRARY", value=str(path), reason=reason, fix=fix)


def _entry(content: Any) -> Any:
    return {"prompt": content} if isinstance(content, str) else content


def _wrong(name: str, entry: Any, *, file: str) -> Iterator[Problem]:
    """Every problem with an entry."""
    entry = _entry(entry)
    if not isinstance(entry, dict):
        fix = 'use a prompt in quotes, or {"prompt": "…", "seed": 1}'
        yield Problem(option=f"{file}: {name}", value="", reason="it is not a prompt", fix=fix)
        return
    known = [field.name for field in fields(LibraryPrompt)]
    if "prompt" not in entry:
        yield Problem(option=f"{file}: {name}", value="", reason="it has no prompt", fix='set "prompt": "…" in it')
    for key, value in entry.items():
        option = f"{file}: {name}, {key}"
        if key not in known:
            fix = did_you_mean(key, known, otherwise=f"the keys are {', '.join(known)}")
            yield Problem(option=option, value="", reason="there is no such key", fix=fix)
        elif reason := _wrong_value(key, value):
            yield Problem(option=option, value=json.dumps(value), reason=reason, fix="see documentation/VALIDATION.md")


def _wrong_value(key: str, value: Any) -> str:
    """Why `value` is not valid for `key`; empty if it is."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match key:
        case "prompt" | "negative_prompt":
            return "" if isinstance(value, str) else "it is not text in quotes"
        case "seed" | "steps":
            least, most = (1, MAX_STEPS) if key == "steps" else (0, MAX_SEED)
            fits = is_number and isinstance(value, int) and least <= value <= most
            return "" if fits else f"it is not an integer of at least {least} and at most {most}"
        case "guidance":
            return "" if is_number and 0 <= value <= MAX_NUMBER else "it is not a number of at least 0"
        case _:
            try:
                parse_validation_sizes(value if isinstance(value, str) else str(int(value)))
            except (ValueError, TypeError) as error:
                return str(error)
            return "" if isinstance(value, str) else "it is not text in quotes"


SMALLEST_PX, LARGEST_PX = 64, 16384
MULTIPLE_PX = 16
"""SD3's latents are an eighth of the image, and its transformer takes them two by two."""


def parse_validation_sizes(text: str) -> tuple[tuple[int, int], ...]:
    """(width, height) in pixels of each size in `text`: `1024`, `1280x768`, or a comma-separated list.

    Raises ValueError, with the reason as its message, if a size cannot be generated.
    """
    return tuple(dict.fromkeys(_size(each.strip()) for each in text.split(",")))


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,9})(?:x([0-9]{1,9}))?", text.lower())
    if found is None:
        raise ValueError(f"{text!r} is not a size such as 1024 or 1280x768")
    size = int(found[1]), int(found[2] or found[1])
    for edge in size:
        if edge > LARGEST_PX:
            raise ValueError(f"{text!r} has an edge of more than {LARGEST_PX} pixels")
        if edge < SMALLEST_PX or edge % MULTIPLE_PX:
            near = max(SMALLEST_PX, round(edge / MULTIPLE_PX) * MULTIPLE_PX)
            raise ValueError(
                f"{edge} in {text!r} is not a multiple of {MULTIPLE_PX} of at least {SMALLEST_PX}; {near} is"
            )
    return size
