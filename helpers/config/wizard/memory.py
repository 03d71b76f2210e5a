"""What each choice costs in memory, and which fits the graphics card that was found."""

from collections.abc import Callable

from helpers.config.wizard.flow import Draft
from helpers.config.wizard.machine import MemoryPeaks

GIGABYTE = 1e9
SPARE = 0.92
"""The share of a card's memory that a run may be estimated to take: the desktop and the allocator take the rest."""

BY_QUALITY = ("no_change", "int8-quanto", "int4-quanto")


def memory_note(name: str, *parts: str) -> Callable[[Draft, str], str]:
    """What is said beside each value of the option `name`: what `parts` of the run take with it, and whether it fits.

    parts: `training`, `encoding` or both.
    """

    def note(draft: Draft, value: str) -> str:
        peaks = draft.machine.memory(draft.answered(name, value).config())
        if peaks is None:
            return ""
        needed = {part: getattr(peaks, part) for part in parts}
        said = ", ".join(f"{part} {number / GIGABYTE:.1f} GB" for part, number in needed.items())
        room = draft.machine.room_bytes
        if room is None:
            return said
        return f"{said}: fits" if max(needed.values()) <= SPARE * room else f"{said}: too much"

    return note


def precision_that_fits(draft: Draft) -> str:
    """The finest precision of the base with which the run fits the card; the base as it is where nothing is known."""
    room = draft.machine.room_bytes
    for value in BY_QUALITY:
        peaks = draft.machine.memory(draft.answered("base_model_precision", value).config())
        if room is None or peaks is None or _fits(peaks, room):
            return value
    return BY_QUALITY[-1]


def _fits(peaks: MemoryPeaks, room_bytes: int) -> bool:
    return max(peaks.encoding, peaks.training) <= SPARE * room_bytes
