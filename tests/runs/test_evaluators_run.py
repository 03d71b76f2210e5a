"""A metric of your own is a class and a line: the console, TensorBoard and the run's page show it unasked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from helpers.training import setup
from helpers.training.plan import Interval
from helpers.training.validation.evaluator import Evaluator
from tests.runs.harness import SmallRun, draw_set
from tests.unit.reporting.tracked import tensorboard_scalars


@dataclass(frozen=True)
class WeightNorm:
    """How far the trainable parameters are from zero."""

    weights: Mapping[str, nn.Parameter]
    name: str = "weight norm"
    when: Interval = field(default_factory=lambda: Interval(steps=1))

    def evaluate(self, step: int, *, only_missing: bool = False) -> Mapping[str, float]:
        norm = sum(float(weight.detach().square().sum()) for weight in self.weights.values()) ** 0.5
        return {"weights/norm": norm, "weights/count": float(len(self.weights))}


def test_a_new_metric_is_shown_everywhere(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = setup.make_evaluators

    def with_weight_norm(*arguments: Any, model: setup.TrainingSetup, **named: Any) -> tuple[Evaluator, ...]:
        return (*ours(*arguments, model=model, **named), WeightNorm(model.step_context.weights))

    monkeypatch.setattr(setup, "make_evaluators", with_weight_norm)
    run = SmallRun(tmp_path, tiny_pipeline, settings={"report_to": "tensorboard", "tracker_run_name": "own"})
    draw_set(run.output / "datasets" / "colors")
    assert run.start(max_train_steps=2) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if "weight norm at step" in line]
    assert [line.split("weight norm at step ")[1][0] for line in shown] == ["0", "1", "2"]
    values = tensorboard_scalars(run.output / "logs" / "tensorboard" / "own", name="weights/norm")
    assert [step for step, _ in values] == [0, 1, 2]
    assert values[0][1] != values[2][1], "training moves the weights"
    assert f"{values[2][1]:.4f} (count " in shown[2]
    page = (run.output / "run.html").read_text()
    assert "Weight norm</h3>" in page
