"""Computes what run.html shows, from the run's history and its current state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from helpers.reporting.format import format_count, format_duration, format_number
from helpers.reporting.metrics_text import by_noise_level, metric_label, overall
from helpers.reporting.pages.charts import Series, line_chart, smoothed
from helpers.reporting.pages.run_history import End, History, Start
from helpers.reporting.pages.run_page_images import SmallImages, prompt_cards
from helpers.reporting.pages.template import render

SIGMA_PREFIX = "loss_by_sigma/"
SAMPLES_PREFIX = "samples_by_sigma/"
COLORS = ("var(--accent)", "var(--second)", "var(--third)", "var(--fourth)")
SPREAD_FOR_LOG = 30
STARTS_SHOWN = 50
MEMORY_LINES = {
    "device_reserved_peak_gb": "peak VRAM reserved",
    "device_peak_gb": "peak VRAM in use",
    "device_gb": "VRAM in use",
    "peak_gb": "peak RAM",
}
PEAK_MEMORY = {
    "device_peak_gb": "peak VRAM in use",
    "device_reserved_peak_gb": "peak VRAM reserved",
    "peak_gb": "peak RAM",
}
STATES = {"finished": "finished", "interrupted": "interrupted, can be resumed", "failed": "failed"}


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The run's current state. written: seconds since 1970; doing: work between steps; seconds_left: None if unknown.

    reload_seconds: how often an open page reloads itself during the run.
    """

    name: str
    written: float
    epoch: int = 0
    doing: str = ""
    seconds_left: float | None = None
    reload_seconds: float = 30.0


@dataclass(frozen=True, kw_only=True)
class StartView:
    """A start of the run as the page lists it. changes: name, before and now of each."""

    begun: str
    what: str
    changes: Sequence[Sequence[str]]


def run_page(history: History, *, moment: Moment, small: SmallImages) -> str:
    """The HTML page. `history` must have at least one start."""
    start, end = history.starts[-1], history.ends.get(len(history.starts) - 1)
    cards, more_prompts = prompt_cards(sorted(history.images.values(), key=lambda each: each.step), small=small)
    return render(
        "run.html.j2",
        moment=moment,
        start=start,
        end=end,
        step=history.step,
        share=_share(history.step, start),
        state=STATES[end.how] if end else moment.doing or "running",
        written=f"{datetime.fromtimestamp(moment.written):%Y-%m-%d %H:%M:%S}",
        figures=list(_tiles(history, start=start, end=end, moment=moment)),
        warnings=list(reversed(history.warnings.values())),
        loss_chart=_loss(history),
        was_resumed=any(each.first_step for each in history.starts),
        evaluations=_evaluated(history, shown=overall),
        cards=cards,
        more_prompts=more_prompts,
        charts=_small_charts(history),
        about=_about(start),
        starts=_starts(history),
        settings=start.settings,
    )


def _tiles(history: History, *, start: Start, end: End | None, moment: Moment) -> Iterator[tuple[str, str]]:
    yield f"{history.step:,}", f"of {start.total_steps:,} steps, {_share(history.step, start)}"
    if end is None:
        left = moment.seconds_left
        yield (format_duration(left) if left is not None else "unknown"), "time left"
    yield f"{moment.epoch + 1:,}", "epoch"
    named = {
        "loss, smoothed": smoothed(_line(history, "train/loss")),
        "learning rate": _line(history, "train/learning_rate"),
        "images per second": smoothed(_line(history, "speed/images_per_second")),
    }
    for name, points in named.items():
        if points:
            yield format_number(points[-1][1]), name
    for key, of in PEAK_MEMORY.items():
        if points := _line(history, f"memory/{key}"):
            yield f"{points[-1][1]:.3g} GB", of
    if history.saved_step:
        yield f"{history.saved_step:,}", "step of the last checkpoint"


def _share(step: int, start: Start) -> str:
    return f"{100 * step // max(1, start.total_steps)} %"


def _line(history: History, name: str) -> list[tuple[float, float]]:
    """A metric by step; each point is at the middle of the steps it covers."""
    return [((p.first + p.last) / 2, p.means[name][0]) for p in history.curve.points if name in p.means]


def _total(history: History, name: str) -> int:
    """The sum of a metric over all steps."""
    return round(sum(mean * steps for mean, steps in (p.means[name] for p in history.curve.points if name in p.means)))


def _loss(history: History) -> Markup:
    series = _with_smoothed(history, "train/loss")
    values = [value for _, value in series[0].points if value > 0]
    log = bool(values) and max(values) > SPREAD_FOR_LOG * min(values)
    rules = [start.first_step for start in history.starts if start.first_step]
    return line_chart(series, label="loss by optimizer step", log=log, tall=True, rules=rules)


def _evaluated(history: History, *, shown: Callable[[Mapping[str, float]], dict[str, float]], prefix: str = "") -> dict:
    """For each evaluator the chart of its metrics, those that `shown` picks."""
    found = {}
    for evaluator, points in history.measured.items():
        values = {
            step: {metric_label(name): value for name, value in shown(each.metrics).items()}
            for step, each in points.items()
        }
        series = _by_name(values, prefix=prefix)
        found[evaluator] = line_chart(series, label=f"{evaluator} by optimizer step", tall=not prefix)
    return found


def _by_name(values: Mapping[int, Mapping[str, float]], *, prefix: str = "") -> list[Series]:
    """One line for each name in the values of the steps."""
    names = dict.fromkeys(name for each in values.values() for name in each)
    return [
        Series(
            name=prefix + name,
            points=[(step, each[name]) for step, each in sorted(values.items()) if name in each],
            color=color,
        )
        for name, color in zip(names, COLORS, strict=False)
    ]


def _small_charts(history: History) -> dict[str, Markup]:
    """The charts by title; empty ones have no points."""
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
    rate = Series(name="learning rate", points=_line(history, "train/learning_rate"))
    memory = [
        Series(name=name, points=_line(history, f"memory/{key}"), color=color)
        for (key, name), color in zip(MEMORY_LINES.items(), COLORS, strict=False)
    ]
    by_level = _evaluated(history, shown=by_noise_level, prefix="σ ")
    norm, speed = _with_smoothed(history, "train/gradient_norm"), _with_smoothed(history, "speed/images_per_second")
    return {
        "Loss by noise level, smoothed": line_chart(by_sigma, label="loss by noise level"),
        **{f"{name[0].upper()}{name[1:]} by noise level": chart for name, chart in by_level.items()},
        "Learning rate": line_chart([rate], label="learning rate", zero=True),
        "Gradient norm": line_chart(norm, label="gradient norm", log=True),
        "Throughput in images per second": line_chart(speed, label="images per second", zero=True),
        "Memory in GB": line_chart(memory, label="memory in gigabytes", zero=True),
    }


def _with_smoothed(history: History, name: str) -> list[Series]:
    raw = _line(history, name)
    return [Series(name="each step", points=raw, faint=True), Series(name="smoothed", points=smoothed(raw))]


def _about(start: Start) -> list[tuple[str, str]]:
    kind = {"lora": "LoRA", "full": "full model"}.get(start.model_type, start.model_type)
    rows = [
        ("base model", start.base_model),
        ("trained", f"{kind}, {start.trainable_parameters:,} trainable parameters"),
    ]
    return rows + [(f"dataset {name}", format_count(count, "images")) for name, count in start.datasets.items()]


def _starts(history: History) -> list[StartView]:
    numbered = list(enumerate(history.starts))[-STARTS_SHOWN:]
    return [_start_view(start, end=history.ends.get(number)) for number, start in numbered]


def _start_view(start: Start, *, end: End | None) -> StartView:
    from_where = f"resumed after step {start.first_step:,}" if start.first_step else "started"
    how = f"; {end.how} at step {end.step:,} after {format_duration(end.at - start.at)}" if end else ""
    begun = f"{datetime.fromtimestamp(start.at):%Y-%m-%d %H:%M}"
    return StartView(begun=begun, what=from_where + how, changes=start.changes)
