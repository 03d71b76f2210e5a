"""The memory that each choice needs, and whether it fits the GPU."""

from collections.abc import Callable

from helpers.config.wizard.flow import Draft
from helpers.config.wizard.machine import MemoryPeaks

GIGABYTE = 1e9
SPARE = 0.92
"""The share of a GPU's memory that a run may use by estimate: the desktop and the allocator need the rest."""

BY_QUALITY = ("no_change", "int8-quanto", "int4-quanto")


def memory_note(name: str, *parts: str) -> Callable[[Draft, str], str]:
    """A note for each value of the option `name`: the memory that `parts` of the run need with it, and whether it fits.

    parts: `training`, `encoding` or both.
    """

    def note(draft: Draft, value: str) -> str:
        peaks = draft.machine.memory(draft.answered(name, value).config())
        if peaks is None:
            return ""
        needed = {part: getattr(peaks, part) for part in parts}
        text = ", ".join(f"{part} {number / GIGABYTE:.1f} GB" for part, number in needed.items())
        room = draft.machine.room_bytes
        if room is None:
            return text
        return f"{text}: fits" if max(needed.values()) <= SPARE * room else f"{text}: too much"

    return note


def precision_that_fits(draft: Draft) -> str:
    """The highest precision of the base model with which the run fits the GPU; unquantized if that is unknown."""
    room = draft.machine.room_bytes
    for value in BY_QUALITY:
        peaks = draft.machine.memory(draft.answered("base_model_precision", value).config())
        if room is None or peaks is None or _fits(peaks, room):
            return value
    return BY_QUALITY[-1]


def _fits(peaks: MemoryPeaks, room_bytes: int) -> bool:
    return max(peaks.encoding, peaks.training) <= SPARE * room_bytes
