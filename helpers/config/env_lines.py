"""On which line of an env file a setting stands, so that what needs a change is found at once."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from helpers.errors import Problem


def add_line_numbers(problems: Iterable[Problem], *, path: Path) -> Iterator[Problem]:
    """The problems, those of names that the file at `path` sets with the line that last sets them."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for problem in problems:
        name = problem.option.removesuffix(f" in {path}")
        number = _line_of(name, lines=lines)
        yield replace(problem, option=f"{name} in {path}, line {number}") if number else problem


def _line_of(name: str, *, lines: Sequence[str]) -> int:
    """The number of the last line that says it, from 1; 0 where none does. Words of extra arguments may be anywhere."""
    flag, _, extra = name.partition(" in ")
    word = flag.strip("'\"") if extra else name
    if not re.fullmatch(r"[A-Z]\w*", extra or name, flags=re.IGNORECASE):
        return 0
    pattern = rf"(?<![\w-]){re.escape(word)}(?!\w)" if extra else rf"(?:^|[\s;]){word}="
    for number in range(len(lines), 0, -1):
        if re.search(pattern, lines[number - 1]) and not lines[number - 1].lstrip().startswith("#"):
            return number
    return 0
