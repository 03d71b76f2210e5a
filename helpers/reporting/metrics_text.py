"""Formats the metrics of an evaluator for the console, the run's page and webhook messages."""

import re
from collections.abc import Mapping

from helpers.reporting.events import MetricsMeasured

LABELS = {"mean": "trained", "ema_mean": "average", "base_mean": "base"}
"""The label to show for the last part of a metric's name, if that part alone is unclear."""

RANGE = re.compile(r"(ema_)?(\d\.\d\d-\d\.\d\d)$")


def metric_label(name: str) -> str:
    """The label of a metric: `average` for `held_out/ema_mean`; without a label, the last part of its name."""
    last = name.rpartition("/")[2]
    return LABELS.get(last, last)


def overall(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are not limited to a range of noise levels, by name."""
    return {name: value for name, value in metrics.items() if not RANGE.search(name)}


def by_noise_level(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics by range of noise levels; those of the averaged weights if they were measured."""
    found = [(match[1], match[2], value) for name, value in metrics.items() if (match := RANGE.search(name))]
    averaged = any(average for average, _, _ in found)
    return {noise_range: value for average, noise_range, value in found if bool(average) == averaged}


def metrics_text(event: MetricsMeasured) -> str:
    """For example `0.4312 (average 0.4290, base 0.5001)`; at step 0 without `base`, which would be the same value."""
    known = overall(event.metrics)
    first, *others = known
    rest = [f"{metric_label(name)} {known[name]:.4f}" for name in others if event.step or metric_label(name) != "base"]
    return f"{known[first]:.4f}" + (f" ({', '.join(rest)})" if rest else "")
