"""The run's page as text, made from its history and from what it does just now."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from helpers.reporting.format import format_count, format_duration, format_number
from helpers.reporting.pages import charts as line_chart
from helpers.reporting.pages import run_page_assets as frame
from helpers.reporting.pages.charts import Series, smoothed
from helpers.reporting.pages.charts import line_chart as chart
from helpers.reporting.pages.html import escape, page, section, tiles
from helpers.reporting.pages.run_history import End, History, Start
from helpers.reporting.pages.run_page_images import SmallImages, image_grid

SIGMA_PREFIX = "loss_by_sigma/"
SAMPLES_PREFIX = "samples_by_sigma/"
COLORS = ("var(--accent)", "var(--second)", "var(--third)", "var(--fourth)")
SPREAD_FOR_LOG = 30
STARTS_SHOWN = 50
MEMORY_LINES = {
    "device_reserved_peak_gb": "graphics card, reserved at most",
    "device_peak_gb": "graphics card, in use at most",
    "device_gb": "graphics card, in use",
    "peak_gb": "process, at most",
}
MOST_MEMORY = {
    "device_peak_gb": "most graphics memory in use",
    "device_reserved_peak_gb": "most graphics memory reserved",
    "peak_gb": "most memory",
}
STATES = {"finished": "finished", "interrupted": "interrupted, can be continued", "failed": "failed"}


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The run just now. written: seconds since 1970; doing: work between steps; seconds_left: None if not known.

    reload_seconds: how often an open page looks for a newer one, while the run goes on.
    """

    name: str
    written: float
    epoch: int = 0
    doing: str = ""
    seconds_left: float | None = None
    reload_seconds: float = 30.0


def run_page(history: History, *, moment: Moment, small: SmallImages) -> str:
    """The whole page. `history` has at least one start."""
    start, end = history.starts[-1], history.ends.get(len(history.starts) - 1)
    images = image_grid(sorted(history.drawn.values(), key=lambda each: each.step), small=small)
    body = [
        *_head(history, start=start, end=end, moment=moment),
        _warnings(history),
        section("Loss", content=_loss(history)),
        section("Loss on images that are never trained on", content=_held_out(history)),
        f"<h2>Images</h2>{images}" if images else "",
        "<h2>Figures</h2>",
        '<div class="cards">',
        *_small_charts(history),
        "</div>",
        "<h2>The run</h2>",
        section("What is trained", content=_what(start)),
        section("Starts, and what changed between them", content=_starts(history)),
        section("Settings", content=_settings(start.settings)),
    ]
    script = line_chart.SCRIPT + frame.SCRIPT + ("" if end else frame.reload_script(moment.reload_seconds))
    title = f"{_share(history.step, start)} {moment.name}"
    return page(title, body=body, style=line_chart.STYLE + frame.STYLE, script=script)


def _head(history: History, *, start: Start, end: End | None, moment: Moment) -> Iterator[str]:
    state = STATES[end.how] if end else moment.doing or "running"
    yield (
        f'<div class="head"><h1 class="path">{escape(moment.name)}</h1>'
        f'<span class="badge {end.how if end else ""}">{escape(state)}</span></div>'
    )
    written = datetime.fromtimestamp(moment.written)
    yield f'<p class="soft" data-written="{moment.written:.0f}">as of {written:%Y-%m-%d %H:%M:%S}</p>'
    if end and end.message:
        yield f'<p class="warn message">{escape(end.message)}</p>'
    yield f'<progress max="{start.total_steps}" value="{history.step}" aria-label="steps done"></progress>'
    yield tiles(list(_tiles(history, start=start, end=end, moment=moment)))


def _tiles(history: History, *, start: Start, end: End | None, moment: Moment) -> Iterator[tuple[str, str]]:
    yield f"{history.step:,}", f"of {start.total_steps:,} steps, {_share(history.step, start)}"
    if end is None:
        left = moment.seconds_left
        yield (format_duration(left) if left is not None else "not known"), "left"
    yield f"{moment.epoch + 1:,}", "epoch"
    named = {
        "loss, smoothed": smoothed(_line(history, "train/loss")),
        "learning rate": _line(history, "train/learning_rate"),
        "images per second": smoothed(_line(history, "speed/images_per_second")),
    }
    for name, points in named.items():
        if points:
            yield format_number(points[-1][1]), name
    for key, of in MOST_MEMORY.items():
        if points := _line(history, f"memory/{key}"):
            yield f"{points[-1][1]:.3g} GB", of
    if history.saved_step:
        yield f"{history.saved_step:,}", "last checkpoint's step"


def _share(step: int, start: Start) -> str:
    return f"{100 * step // max(1, start.total_steps)} %"


def _line(history: History, name: str) -> list[tuple[float, float]]:
    """A figure over steps, each point at the middle of the steps it stands for."""
    return [((p.first + p.last) / 2, p.means[name][0]) for p in history.curve.points if name in p.means]


def _total(history: History, name: str) -> int:
    """The sum of a figure over all steps."""
    return round(sum(mean * steps for mean, steps in (p.means[name] for p in history.curve.points if name in p.means)))


def _loss(history: History) -> str:
    raw = _line(history, "train/loss")
    values = [value for _, value in raw if value > 0]
    log = bool(values) and max(values) > SPREAD_FOR_LOG * min(values)
    series = [Series(name="each step", points=raw, faint=True), Series(name="smoothed", points=smoothed(raw))]
    rules = [start.first_step for start in history.starts if start.first_step]
    said = '<p class="soft">Dotted lines are where the run was continued.</p>' if rules else ""
    return (
        drawn := chart(series, label="the loss by optimizer step", log=log, tall=True, rules=rules)
    ) and drawn + said


def _held_out(history: History) -> str:
    series = _by_name({step: each.means for step, each in history.held_out.items()})
    return chart(series, label="the loss on images that are never trained on, by optimizer step", tall=True)


def _held_out_by_sigma(history: History) -> str:
    series = _by_name({step: each.by_sigma for step, each in history.held_out.items()}, prefix="σ ")
    return chart(series, label="the loss on images that are never trained on, by noise level")


def _by_name(values: Mapping[int, Mapping[str, float]], *, prefix: str = "") -> list[Series]:
    """A line for each name that steps have values by."""
    names = dict.fromkeys(name for each in values.values() for name in each)
    return [
        Series(
            name=prefix + name,
            points=[(step, each[name]) for step, each in sorted(values.items()) if name in each],
            color=color,
        )
        for name, color in zip(names, COLORS, strict=False)
    ]


def _small_charts(history: History) -> Iterator[str]:
    names = {name for point in history.curve.points for name in point.means}
    ranges = sorted(name.removeprefix(SIGMA_PREFIX) for name in names if name.startswith(SIGMA_PREFIX))
    by_sigma = [
        Series(
            name=f"σ {each} ({_total(history, SAMPLES_PREFIX + each):,} samples)",
            points=smoothed(_line(history, SIGMA_PREFIX + each)),
            color=color,
        )
        for each, color in zip(ranges, COLORS, strict=False)
    ]
    yield section("Loss by noise level, smoothed", content=chart(by_sigma, label="the loss by noise level"))
    yield section("Never trained on: loss by noise level", content=_held_out_by_sigma(history))
    rate = Series(name="learning rate", points=_line(history, "train/learning_rate"))
    yield section("Learning rate", content=chart([rate], label="the learning rate", zero=True))
    norm = _line(history, "train/gradient_norm")
    both = [Series(name="each step", points=norm, faint=True), Series(name="smoothed", points=smoothed(norm))]
    yield section("Length of the gradient", content=chart(both, label="the length of the gradient", log=True))
    speed = _line(history, "speed/images_per_second")
    both = [Series(name="each step", points=speed, faint=True), Series(name="smoothed", points=smoothed(speed))]
    yield section("Images per second", content=chart(both, label="images per second", zero=True))
    memory = [
        Series(name=name, points=_line(history, f"memory/{key}"), color=color)
        for (key, name), color in zip(MEMORY_LINES.items(), COLORS, strict=False)
    ]
    yield section("Memory in GB", content=chart(memory, label="memory in gigabytes", zero=True))


def _warnings(history: History) -> str:
    items = "".join(
        f'<li class="message">{escape(each.text)}'
        + (f' <span class="soft">at step {each.step:,}</span></li>' if each.step else "</li>")
        for each in reversed(history.warnings.values())
    )
    return f'<div class="card warnings"><h3 class="warn">Warnings</h3><ul>{items}</ul></div>' if items else ""


def _what(start: Start) -> str:
    kind = {"lora": "a LoRA", "full": "the whole model"}.get(start.model_type, start.model_type)
    rows = [("base model", start.base_model), ("trained", f"{kind}, {start.trainable_parameters:,} numbers")]
    rows += [(f"dataset {name}", format_count(count, "images")) for name, count in start.datasets.items()]
    return _table(rows)


def _starts(history: History) -> str:
    numbered = list(enumerate(history.starts))[-STARTS_SHOWN:]
    return "".join(_one_start(start, end=history.ends.get(number)) for number, start in numbered)


def _one_start(start: Start, *, end: End | None) -> str:
    begun = f"{datetime.fromtimestamp(start.at):%Y-%m-%d %H:%M}"
    how = f"{end.how} at step {end.step:,} after {format_duration(end.at - start.at)}" if end else ""
    from_where = f"continued after step {start.first_step:,}" if start.first_step else "begun"
    changed = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(before) or 'none'}</td><td>{escape(now) or 'none'}</td></tr>"
        for name, before, now in start.changes
    )
    table = "<tr><th>changed</th><th>before</th><th>now</th></tr>" + changed
    return f"<h4>{begun} <span>{from_where}{f'; {how}' if how else ''}</span></h4>" + (
        f'<div class="wide"><table>{table}</table></div>' if changed else ""
    )


def _settings(settings: Mapping[str, Mapping[str, str]]) -> str:
    groups = "".join(
        f"<section><h4>{escape(group)}</h4>{_table(list(values.items()))}</section>"
        for group, values in settings.items()
    )
    return f'<details><summary>all settings</summary><div class="groups">{groups}</div></details>'


def _table(rows: Sequence[tuple[str, str]]) -> str:
    inner = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<div class="wide"><table>{inner}</table></div>'
