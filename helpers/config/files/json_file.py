"""The one reader of JSON files that people write: what is wrong with one, and the fix that fits the mistake."""

import json
import re
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from helpers.errors import Problem

MAX_BYTES = 64 * 1024**2
"""Far more than a file that a person wrote; devices such as /dev/zero have no end."""

PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class WrongJson(Exception):
    """A file that cannot be read as JSON, with the reason and the fix."""

    def __init__(self, reason: str, *, fix: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix

    def problem(self, option: str, *, value: str) -> Problem:
        """As a problem of the option that names the file."""
        return Problem(option=option, value=value, reason=self.reason, fix=self.fix)


class MissingJson(WrongJson):
    """There is no such file."""


def read_json(path: Path, *, example: str = "") -> Any:
    """The content of a JSON file in UTF-8. Raises WrongJson; also if an object has a key twice.

    example: a file to name in the fix if this one does not exist."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise MissingJson(
            "there is no such file", fix=f"name a file such as {example}" if example else "name a file that exists"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        reason = getattr(error, "strerror", None) or str(error)
        raise WrongJson(f"it cannot be read: {reason}", fix="name a file that this user may read") from error
    if len(content) > MAX_BYTES:
        raise WrongJson(f"it is larger than {MAX_BYTES // 1024**2} MiB", fix="name a JSON file")
    try:
        return parse_json(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        reason = f"it is not UTF-8 text ({error.reason} at byte {error.start})"
        raise WrongJson(reason, fix="save the file as UTF-8") from error


def parse_json(text: str) -> Any:
    """The value of a JSON text. Raises WrongJson."""
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False).encode()
    except JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise WrongJson(f"it is not JSON: {error.msg} ({place})", fix=_fix(text, error, place=place)) from error
    except UnicodeEncodeError as error:
        reason = r"it has half of a character: a \ud800 to \udfff without its other half"
        raise WrongJson(reason, fix="write the character itself") from error
    except RecursionError as error:
        raise WrongJson("its lists and objects are nested too deeply", fix="remove the nesting") from error
    except ValueError as error:
        raise WrongJson("it has a number with too many digits", fix="write a smaller number") from error
    return value


def _fix(text: str, error: JSONDecodeError, *, place: str) -> str:
    """What to do about the mistake at `place`."""
    rest, before = text[error.pos :], text[: error.pos].rstrip()
    start = rest.lstrip()
    word = re.match(r"[A-Za-z]+", start)
    if start.startswith(("//", "/*", "#")):
        return f"remove the comment at {place}: JSON has no comments"
    if start.startswith(("'", "“", "”", "„", "‘", "’")):
        return f'use straight double quotes (") at {place}'
    if word and word[0] in PYTHON_WORDS:
        return f"write {PYTHON_WORDS[word[0]]} instead of {word[0]} at {place}"
    if "escape" in error.msg:
        return rf"write \\ for each backslash, or / in paths, at {place}"
    if "control character" in error.msg or "Unterminated string" in error.msg:
        return f"close the quotes at {place}, on the same line"
    if start.startswith(("]", "}")) and before.endswith(","):
        return f"remove the comma before {start[0]} at {place}"
    if "trailing comma" in error.msg:
        return f"remove the comma at {place}"
    if "property name" in error.msg and word:
        return f"put {word[0]} in double quotes at {place}"
    if "',' delimiter" in error.msg and start:
        return f"add a comma before {place}"
    if "Extra data" in error.msg:
        return f"remove what follows the end at {place}, or put all in one list"
    if not start:
        return "complete the file: it ends too early"
    return f"fix {place}"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise WrongJson(f'the key "{key}" is set twice in one object', fix="remove one of the two")
        found[key] = value
    return found


def _no_constant(name: str) -> float:
    raise WrongJson(f"it is not JSON: {name} is not a number", fix=f"write a number instead of {name}")
