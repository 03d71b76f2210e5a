"""Charts as SVG, drawn with lines and numbers only, so that a page needs no library and no network."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from helpers.reporting.pages.html import escape

WIDTH, HEIGHT = 420, 180
LEFT, RIGHT, TOP, BOTTOM = 44, 18, 12, 24


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A place on an axis, from 0 to 1, and what is written there."""

    at: float
    label: str


def histogram(counts: Sequence[int], *, ticks: Sequence[Tick], marks: Sequence[Tick] = (), label: str) -> str:
    """Bars of equal width. marks: upright lines across the chart, such as limits; label: the chart in words."""
    highest = max(counts, default=0) or 1
    step = (WIDTH - LEFT - RIGHT) / max(1, len(counts))
    bars = "".join(
        f'<rect class="bar" x="{LEFT + index * step + 0.5:.1f}" y="{_y(count / highest):.1f}" '
        f'width="{max(0.5, step - 1):.1f}" height="{_y(0) - _y(count / highest):.1f}"><title>{count:,}</title></rect>'
        for index, count in enumerate(counts)
        if count
    )
    sides = [Tick(at=0, label="0"), Tick(at=1, label=f"{highest:,}")]
    return _frame(bars + "".join(map(_mark, marks)), ticks=ticks, sides=sides, label=label)


def scatter(
    points: Sequence[tuple[float, float]],
    *,
    crosses: Sequence[tuple[float, float]],
    ticks: Sequence[Tick],
    sides: Sequence[Tick],
    label: str,
) -> str:
    """Points from (0, 0) to (1, 1), and crosses for what they are compared with."""
    dots = "".join(
        f'<circle class="dot" fill-opacity="0.45" r="2.2" cx="{_x(x):.1f}" cy="{_y(y):.1f}"/>' for x, y in points
    )
    stars = "".join(f'<path class="mark" d="M{_x(x) - 4:.1f} {_y(y):.1f}h8m-4 -4v8"/>' for x, y in crosses)
    return _frame(dots + stars, ticks=ticks, sides=sides, label=label)


def powers_of_two(low: float, high: float) -> tuple[int, int]:
    """The exponents of the nearest powers of two around a range of lengths, at least one apart."""
    first, last = math.floor(math.log2(max(low, 1))), math.ceil(math.log2(max(high, 2)))
    return first, max(last, first + 1)


def _frame(drawn: str, *, ticks: Sequence[Tick], sides: Sequence[Tick], label: str) -> str:
    lines = "".join(
        f'<path class="grid" d="M{LEFT} {_y(side.at):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{_y(side.at) + 4:.1f}" text-anchor="end">{escape(side.label)}</text>'
        for side in sides
    )
    names = "".join(
        f'<text x="{_x(tick.at):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(tick.label)}</text>'
        for tick in ticks
    )
    said = escape(label, quote=True)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">{lines}{drawn}{names}</svg>'


def _mark(mark: Tick) -> str:
    at = _x(mark.at)
    return (
        f'<path class="mark" stroke-dasharray="4 3" d="M{at:.1f} {TOP}V{_y(0):.1f}"/>'
        f'<text class="marked" x="{at - 4:.1f}" y="{TOP + 10}" text-anchor="end">{escape(mark.label)}</text>'
    )


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
