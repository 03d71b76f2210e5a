"""Which known name a misspelt one was meant to be."""

from collections.abc import Iterable
from difflib import SequenceMatcher


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` is a slip of, or None where none is near enough.

    Capitals, dashes and underscores do not count; beyond them, one slip in short names and two in long ones.
    """
    said = _plain(name)
    near = [(distance(said, _plain(other)), -SequenceMatcher(None, name, other).ratio(), other) for other in known]
    near = [each for each in near if each[0] <= (1 if len(said) <= 6 else 2)]
    return min(near)[2] if near else None


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str) -> str:
    """The fix for an unknown `name`: the nearest known one, or `otherwise`."""
    meant = nearest(name, known)
    return f"did you mean {meant}?" if meant else otherwise


def distance(one: str, other: str) -> int:
    """How many letters must be put in, left out, changed or swapped to make `one` into `other`.

    The optimal string alignment distance; counting stops at 3, which is far enough for every use here.
    """
    if abs(len(one) - len(other)) > 2:
        return 3
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        after = [i]
        for j, match in enumerate(other, 1):
            cost = min(row[j] + 1, after[j - 1] + 1, row[j - 1] + (letter != match))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == match:
                cost = min(cost, before[j - 2] + 1)
            after.append(cost)
        before, row = row, after
    return min(row[-1], 3)


def _plain(name: str) -> str:
    return name.casefold().replace("_", "").replace("-", "")
