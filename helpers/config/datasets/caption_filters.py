"""The entries of `caption_filter_list`: text to remove, a regular expression, or `s/search/replace/`."""

import re
from pathlib import Path
from typing import Any

from helpers.config.files.json_file import WrongJson, read_json

ENDINGS = (".txt", ".json")
SUBSTITUTION = re.compile(r"s/((?:\\.|[^/\\])*)/((?:\\.|[^/\\])*)/([gi]*)", re.DOTALL)
REGEX_CHARACTERS = frozenset("\\^$*+[]{}|")
"""An entry with one of these characters is a regular expression; literal text to remove seldom has them."""


def compiled(entry: str) -> tuple[re.Pattern[str], str]:
    """The pattern and the replacement of an entry. Raises re.error if either is invalid.

    `s/search/replace/` replaces every match, with \\1 for the first group; a trailing `i` ignores case.
    """
    if substitution := SUBSTITUTION.fullmatch(entry):
        search, replacement, flags = substitution.groups()
        pattern = re.compile(search.replace("\\/", "/"), re.IGNORECASE if "i" in flags else 0)
        replacement = replacement.replace("\\/", "/")
        pattern.sub(replacement, "")  # raises if the replacement names a missing group
        return pattern, replacement
    return re.compile(entry if REGEX_CHARACTERS & set(entry) else re.escape(entry)), ""


def read_filters(value: Any, *, start: Path) -> Any:
    """The entries: `value` itself, or those of the file that it names (relative to `start`).

    Raises ValueError, worded to follow "it must be", if a file or an expression cannot be used.
    """
    entries = _entries_of(Path(start / Path(value).expanduser())) if isinstance(value, str) and value else value or ()
    for entry in entries if isinstance(entries, list | tuple) else ():
        if isinstance(entry, str):
            try:
                compiled(entry)
            except re.error as error:
                raise ValueError(f"made of text and regular expressions; {entry!r} is neither: {error}") from error
    return entries


def _entries_of(file: Path) -> Any:
    """The lines of a .txt that are not empty, or the list in a .json."""
    if file.suffix.lower() not in ENDINGS:
        raise ValueError(f"a list, or the name of a .txt or .json file; {file.name} is neither")
    try:
        if file.suffix.lower() == ".json":
            return read_json(file)
        return [line for line in file.read_text(encoding="utf-8").splitlines() if line]
    except WrongJson as wrong:
        raise ValueError(f"a JSON file; {file}: {wrong.reason}; {wrong.fix}") from wrong
    except OSError as error:
        raise ValueError(f"a file that can be read; {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"a file of UTF-8 text; {file}: {error}") from error
