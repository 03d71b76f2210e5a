"""What `caption_filter_list` says, entry by entry: text to remove, a regular expression, or `s/search/replace/`."""

import json
import re
from json import JSONDecodeError
from pathlib import Path
from typing import Any

ENDINGS = (".txt", ".json")
SUBSTITUTION = re.compile(r"s/((?:\\.|[^/\\])*)/((?:\\.|[^/\\])*)/([gi]*)", re.DOTALL)
OF_EXPRESSIONS = frozenset("\\^$*+[]{}|")
"""Characters that make an entry a regular expression: text that is to be removed as it stands seldom has them."""


def compiled(entry: str) -> tuple[re.Pattern[str], str]:
    """What an entry searches, and what is put there. Raises re.error for a wrong expression or replacement.

    `s/search/replace/` replaces what an expression finds, everywhere, with \\1 for its first group; a trailing `i` lets
    capitals and small letters be the same.
    """
    if said := SUBSTITUTION.fullmatch(entry):
        search, replacement, flags = said.groups()
        pattern = re.compile(search.replace("\\/", "/"), re.IGNORECASE if "i" in flags else 0)
        replacement = replacement.replace("\\/", "/")
        pattern.sub(replacement, "")  # a group that is not there is told of now
        return pattern, replacement
    return re.compile(entry if OF_EXPRESSIONS & set(entry) else re.escape(entry)), ""


def read_filters(said: Any, *, start: Path) -> Any:
    """The entries: those of a list, or of the file that `said` names (relative to `start`); other values as they are.

    Raises ValueError, in words that go on from "it must be", for a file or an expression that is of no use.
    """
    entries = _entries_of(Path(start / Path(said).expanduser())) if isinstance(said, str) and said else said or ()
    for entry in entries if isinstance(entries, list | tuple) else ():
        if isinstance(entry, str):
            try:
                compiled(entry)
            except re.error as error:
                raise ValueError(f"made of text and regular expressions; {entry!r} is neither: {error}") from error
    return entries


def _entries_of(file: Path) -> Any:
    """One entry a line of a .txt, less the empty ones, or the list in a .json."""
    if file.suffix.lower() not in ENDINGS:
        raise ValueError(f"a list, or the name of a .txt or .json file; {file.name} is neither")
    try:
        text = file.read_text(encoding="utf-8")
        return json.loads(text) if file.suffix.lower() == ".json" else [line for line in text.splitlines() if line]
    except OSError as error:
        raise ValueError(f"a file that can be read; {file}: {error.strerror}") from error
    except (UnicodeDecodeError, JSONDecodeError) as error:
        raise ValueError(f"a file of UTF-8 text or JSON; {file}: {error}") from error
