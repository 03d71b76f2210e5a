"""Charts as plain SVG, which need no library and no network: lines over steps, histograms and scatter plots."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from helpers.reporting.format import format_number

SIZE = 1000
TICKS = 5
OUTLIERS = 0.005
MANY = 200
FEW = 12
AT_THE_END = 0.95
SMOOTHED_SHARE = 1 / 25


WIDTH, HEIGHT = 420, 180
LEFT, RIGHT, TOP, BOTTOM = 44, 18, 12, 24


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A position on an axis, from 0 to 1, and its label."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Series:
    """A line. points: (step, value), in order. color: a CSS color. faint: thin, and behind the others."""

    name: str
    points: Sequence[tuple[float, float]]
    color: str = "var(--accent)"
    faint: bool = False


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """An exponential moving average over about 1/25 of the points, with bias correction."""
    keep = 1 - 1 / max(4.0, len(points) * SMOOTHED_SHARE)
    total = weight = 0.0
    means: list[tuple[float, float]] = []
    for step, value in points:
        total, weight = keep * total + value, keep * weight + 1
        means.append((step, total / weight))
    return means


def line_chart(
    series: Sequence[Series],
    *,
    label: str,
    log: bool = False,
    zero: bool = False,
    tall: bool = False,
    rules: Sequence[float] = (),
) -> Markup:
    """An SVG chart with its legend; empty if no line has points.

    label: describes the chart to screen readers. log: a logarithmic scale, without values of 0 and below.
    zero: a linear scale from 0. rules: steps with a vertical line.
    """
    assert not (log and zero)
    if log:
        series = [_positive(each) for each in series]
    series = [each for each in series if each.points]
    if not series:
        return Markup()
    low, high = _steps(series)
    bottom, top = _values(series, log=log, zero=zero)

    def across(step: float) -> float:
        return (step - low) / (high - low)

    scale = _logarithmic if log else _linear

    def up(value: float) -> float:
        return (scale(value) - scale(bottom)) / (scale(top) - scale(bottom))

    sides = [Tick(at=up(value), label=format_number(value)) for value in _ticks(bottom, top, log=log)]
    ticks = [Tick(at=across(step), label=f"{step:,.0f}") for step in _ticks(low, high, log=False) if step == int(step)]
    lines = "".join(_path(each, across=across, up=up) for each in sorted(series, key=lambda one: not one.faint))
    upright = "".join(
        f'<path class="rule" d="M{SIZE * across(step):.1f} 0V{SIZE}"/>' for step in rules if low <= step <= high
    )
    data = {"low": low, "high": high, "series": [_tooltip_points(each) for each in series]}
    return Markup(
        f'<figure class="plot{" tall" if tall else ""}" data-points="{escape(json.dumps(data))}">'
        f'{_legend(series)}<div class="field">'
        f'<svg viewBox="0 0 {SIZE} {SIZE}" preserveAspectRatio="none" role="img" aria-label="{escape(label)}">'
        f"{_grid(sides)}{upright}{lines}</svg>"
        f"{_dots(series, across=across, up=up)}{_labels(sides, ticks=ticks)}"
        '<div class="hair" hidden></div><div class="tooltip" hidden></div></div></figure>'
    )


def _tooltip_points(series: Series) -> tuple[str, list[tuple[float, float]]]:
    """The name and rounded points of a line, for the tooltip."""
    return series.name, [(step, float(f"{value:.4g}")) for step, value in series.points]


def _legend(series: Sequence[Series]) -> str:
    names = "".join(
        f'<span><i style="background:{each.color};opacity:{0.4 if each.faint else 1}"></i>{escape(each.name)}</span>'
        for each in series
    )
    return f'<div class="legend">{names}</div>' if len(series) > 1 else ""


def _labels(sides: Sequence[Tick], *, ticks: Sequence[Tick]) -> str:
    values = (f'<span class="side" style="top:{100 - 100 * at.at:.2f}%">{escape(at.label)}</span>' for at in sides)
    steps = (
        f'<span class="tick{" end" if at.at > AT_THE_END else ""}" style="left:{100 * at.at:.2f}%">'
        f"{escape(at.label)}</span>"
        for at in ticks
    )
    return "".join((*values, *steps))


def _path(series: Series, *, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    places = " ".join(f"{SIZE * across(step):.1f},{SIZE * (1 - up(value)):.1f}" for step, value in series.points)
    kind = ' class="faint"' if series.faint else ""
    return f'<path{kind} stroke="{series.color}" d="M{places}"><title>{escape(series.name)}</title></path>'


def _dots(series: Sequence[Series], *, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    """A dot for each value of lines with few values."""
    return "".join(
        f'<div class="dot" style="left:{100 * across(step):.2f}%;top:{100 - 100 * up(value):.2f}%;'
        f'background:{each.color}"></div>'
        for each in series
        if len(each.points) <= FEW and not each.faint
        for step, value in each.points
    )


def _grid(sides: Sequence[Tick]) -> str:
    return "".join(f'<path class="grid" d="M0 {SIZE - SIZE * side.at:.1f}H{SIZE}"/>' for side in sides)


def _steps(series: Sequence[Series]) -> tuple[float, float]:
    steps = [step for each in series for step, _ in each.points]
    low = min(steps)
    return (0.0 if low <= 1 else low), max(max(steps), low + 1)


def _values(series: Sequence[Series], *, log: bool, zero: bool) -> tuple[float, float]:
    """The range of values to show; it may leave out a few outliers of a faint line."""
    values = [value for each in series if not each.faint for _, value in each.points]
    for each in series:
        if each.faint:
            ordered = sorted(value for _, value in each.points)
            aside = round(len(ordered) * OUTLIERS) if len(ordered) >= MANY else 0
            values += ordered[aside], ordered[-1 - aside]
    bottom, top = (min(0.0, *values) if zero else min(values)), max(values)
    if log:
        return bottom / 1.1, top * 1.1
    room = (top - bottom) * 0.05 or abs(top) * 0.1 or 1.0
    return (bottom if zero and bottom == 0 else bottom - room), top + room


def _ticks(low: float, high: float, *, log: bool) -> list[float]:
    """Round values from `low` to `high`."""
    if log and high / low >= 10:
        powers = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
        apart = max(1, math.ceil(len(powers) / TICKS))
        return [10.0**power for power in powers[::apart]]
    rough = (high - low) / TICKS
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * 0.999)
    return [round(number * step, 12) for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _positive(series: Series) -> Series:
    points = [(step, value) for step, value in series.points if value > 0]
    return Series(name=series.name, points=points, color=series.color, faint=series.faint)


def _linear(value: float) -> float:
    return value


def _logarithmic(value: float) -> float:
    return math.log10(value)


def histogram(counts: Sequence[int], *, ticks: Sequence[Tick], marks: Sequence[Tick] = (), label: str) -> Markup:
    """Bars of equal width. marks: vertical lines, such as limits; label: describes the chart to screen readers."""
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
) -> Markup:
    """Points from (0, 0) to (1, 1), and crosses to compare them with."""
    dots = "".join(
        f'<circle class="dot" fill-opacity="0.45" r="2.2" cx="{_x(x):.1f}" cy="{_y(y):.1f}"/>' for x, y in points
    )
    stars = "".join(f'<path class="mark" d="M{_x(x) - 4:.1f} {_y(y):.1f}h8m-4 -4v8"/>' for x, y in crosses)
    return _frame(dots + stars, ticks=ticks, sides=sides, label=label)


def powers_of_two(low: float, high: float) -> tuple[int, int]:
    """The exponents of the powers of two around a range of lengths, at least one apart."""
    first, last = math.floor(math.log2(max(low, 1))), math.ceil(math.log2(max(high, 2)))
    return first, max(last, first + 1)


def _frame(shapes: str, *, ticks: Sequence[Tick], sides: Sequence[Tick], label: str) -> Markup:
    lines = "".join(
        f'<path class="grid" d="M{LEFT} {_y(side.at):.1f}H{WIDTH - RIGHT}"/>'
        f'<text x="{LEFT - 6}" y="{_y(side.at) + 4:.1f}" text-anchor="end">{escape(side.label)}</text>'
        for side in sides
    )
    names = "".join(
        f'<text x="{_x(tick.at):.1f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(tick.label)}</text>'
        for tick in ticks
    )
    start = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(f"{start}{lines}{shapes}{names}</svg>")


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
