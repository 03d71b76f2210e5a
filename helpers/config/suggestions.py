"""Suggestions for misspelt names."""

from collections.abc import Iterable
from difflib import SequenceMatcher


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely means, or None if none is close enough.

    Case, dashes and underscores are ignored. Up to 6 letters, one edit is close enough; above, two.
    """
    plain = _plain(name)
    near = [(distance(plain, _plain(other)), -SequenceMatcher(None, name, other).ratio(), other) for other in known]
    near = [each for each in near if each[0] <= (1 if len(plain) <= 6 else 2)]
    return min(near)[2] if near else None


def did_you_mean(name: str, known: Iterable[str], *, otherwise: str) -> str:
    """The fix for an unknown `name`: a question about the closest known one, or `otherwise`."""
    meant = nearest(name, known)
    return f"did you mean {meant}?" if meant else otherwise


def distance(one: str, other: str) -> int:
    """The number of letters to insert, delete, change or swap to turn `one` into `other`.

    The optimal string alignment distance; at most 3, which is enough here.
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
