"""Commands of an env file that bash runs without an error, but not as meant: words of a value would be lost.

`export VALIDATION_PROMPT=a photo of a cat` sets the prompt to `a`, and three more variables to nothing.
"""

import re
from collections.abc import Collection, Sequence

SEGMENT = re.compile(
    r"""(?P<space>\s+)
    | (?P<single>\$'(?:\\.|[^'\\])*+'|'[^']*+')
    | (?P<double>"(?:\\.|\$\((?:[^()]|\([^()]*\))*+\)|`[^`]*`|[^"\\])*+")
    | (?P<expansion>\$\((?:[^()]|\([^()]*\))*+\)|`[^`]*`|\$\{[^}]*\}|\$\w+|\$.)
    | (?P<escape>\\.)
    | (?P<plain>[^\s'"\\$`]+)""",
    flags=re.VERBOSE | re.DOTALL,
)
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)(\[[^\]]*\])?\+?=(\()?")
DECLARING = ("export", "declare", "typeset", "readonly")
REDIRECTION = re.compile(r"\d*[<>&]")
SUBSTITUTION = re.compile(r"\$\((?:[^()]|\([^()]*\))*+\)|`[^`]*`")
ARGUMENT = re.compile(r"(?<!\\)\$(?:\{?\d|[@*#])")

Word = list[tuple[str, str]]
"""The segments of a word: the name of the group in `SEGMENT`, and the text."""


def find_lost_words(command: str, *, known: Collection[str]) -> tuple[str, str] | None:
    """Why `command`, as bash prints it, does not set what it seems to, and the fix; None if nothing is lost.

    known: the names of our settings.
    """
    words = _split(command)
    if not words:
        return None
    texts = ["".join(text for _, text in word) for word in words]
    first = texts[0]
    if first == "set":
        return _set_command(texts[1:])
    declares = first in DECLARING
    assigned = [word for word, text in zip(words, texts, strict=True) if ASSIGNMENT.match(text)]
    if not declares and not ASSIGNMENT.match(first):
        return None
    makes_array = declares and any(re.match(r"-\w*[aA]", text) for text in texts)
    if name := next((text for text in texts[declares:] if _is_array(text) or (makes_array and text[0] != "-")), ""):
        return "bash makes an array of it, and settings are not arrays", f'write {_name(name)}="…", in quotes'
    for word in assigned:
        if found := _quotes_or_arguments(word):
            return found
    return _further_words(texts, declares=declares, known=known)


def assigned_name(command: str) -> str:
    """The first name that `command` assigns to; empty if there is none."""
    found = re.search(rf"(?:^|\s){ASSIGNMENT.pattern}", command)
    return found[1] if found else ""


def _split(command: str) -> list[Word]:
    """The words of a command before its first redirection; none if it is more than this module can read."""
    words: list[Word] = [[]]
    place = 0
    while place < len(command):
        match = SEGMENT.match(command, place)
        if match is None or match.lastgroup is None:
            return []
        place = match.end()
        if match.lastgroup == "space":
            words.append([])
        elif not words[-1] and REDIRECTION.match(match[0]):
            break
        else:
            words[-1].append((match.lastgroup, match[0]))
    return [word for word in words if word]


def _is_array(text: str) -> bool:
    found = ASSIGNMENT.match(text)
    return bool(found and (found[2] or found[3]))


def _name(text: str) -> str:
    found = ASSIGNMENT.match(text)
    return found[1] if found else text


def _set_command(arguments: Sequence[str]) -> tuple[str, str] | None:
    if not arguments or arguments[0].startswith(("-", "+")):
        return None
    return "bash's `set` does not set a variable", f"write export {' '.join(arguments)}"


def _quotes_or_arguments(word: Word) -> tuple[str, str] | None:
    """What is lost inside one assignment: quotes within quotes, or `$1`, which is empty here."""
    for (before, left), (between, _), (after, right) in zip(word, word[1:], word[2:], strict=False):
        if (before, between, after) == ("double", "plain", "double"):
            left, right = left[1:-1], right[1:-1]
            if not left or not right or left[-1].isspace() or right[0].isspace():
                return "the inner double quotes end the value, so they are lost", 'write \\" for each inner quote'
    for kind, text in word:
        found = ARGUMENT.search(SUBSTITUTION.sub("", text)) if kind in ("double", "expansion") else None
        if found:
            return (
                f"bash takes {found[0]} for an argument of the script, which is empty",
                "write \\$ for a dollar sign, or put the value in single quotes",
            )
    return None


def _further_words(texts: Sequence[str], *, declares: bool, known: Collection[str]) -> tuple[str, str] | None:
    """Words after an assignment that bash takes for names or for a command."""
    start = next((number for number, text in enumerate(texts) if ASSIGNMENT.match(text)), len(texts))
    number = next((number for number, text in enumerate(texts) if number > start and not ASSIGNMENT.match(text)), 0)
    if not number or (not declares and not any(_name(text) in known for text in texts[:number])):
        return None
    kind = "the name of another variable" if declares else "a command to run"
    end = next((i for i, text in enumerate(texts) if i > number and ASSIGNMENT.match(text)), len(texts))
    name, _, value = " ".join(texts[number - 1 : end]).partition("=")
    plain = value.replace('"', "").replace("'", "") if name in known else "…"  # others may be secrets
    return f"bash takes {texts[number]} for {kind}, not for a part of the value", f'write {name}="{plain}", in quotes'
