"""Every way to train, on the pretend CUDA device. Run by test_ways.py.

Each step waits for the device once, its batch comes from pinned memory, and a run that was interrupted is the straight
one to the bit.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.training import loop
from helpers.training.optim import ema
from tests.pretend_cuda import device
from tests.runs import test_proofs
from tests.runs.harness import SmallRun
from tests.runs.test_proofs import SAVED, STEPS, VARIANTS, bases, cached, earlier, left_by, lora, run_of

__all__ = ["bases", "cached", "earlier"]  # fixtures
ON_A_DEVICE: dict[str, dict[str, Any]] = {
    "gradient checkpointing": lora(gradient_checkpointing=True),
    "average on the device": lora(use_ema=True, ema_device="accelerator"),
    "offloaded blocks": lora(offload_blocks=3),
    "offloaded blocks of int4": lora(offload_blocks=3, base_model_precision="int4-quanto"),
    "offloaded activations": lora(offload_activations=True),
}
WAYS = {**test_proofs.WAYS, **ON_A_DEVICE}
WATCHED = 2
"""The step from whose begin to the next one's events are counted: it updates averages, and saves nothing."""


def rows() -> Iterator[Any]:
    """Each way on one of the kinds of SD3 in turn."""
    for number, way in enumerate(WAYS):
        kind = list(VARIANTS)[number % len(VARIANTS)]
        yield pytest.param(way, kind, id=f"{way}, {kind}")


@pytest.mark.parametrize(("way", "kind"), list(rows()))
def test_a_step_waits_once_and_an_interrupted_run_is_the_straight_one(
    way: str,
    kind: str,
    cached: SmallRun,
    bases: dict[str, Path],
    earlier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(test_proofs, "WAYS", WAYS)
    run = run_of(way, kind=kind, cached=cached, bases=bases, earlier=earlier, folder=tmp_path)
    run.settings.pop("validation_prompt")
    steps = watched_steps(monkeypatch)
    assert run.start() == 0
    waits = {event: times for event, times in steps[WATCHED].items() if event.waits}
    told = [f"{times} {event.kind} {event.op} {event.place}" for event, times in waits.items()]
    # An average on the processor, which is the default, takes in all weights at one wait of its own.
    averages = run.settings.get("use_ema", False) and run.settings.get("ema_device") != "accelerator"
    assert sum(waits.values()) == 1 + averages, "\n".join(told)
    pinned = sum(times for event, times in steps[WATCHED].items() if event.kind == "to device, pinned")
    assert pinned >= 5, "latents, noise, sigmas, and of the captions embeddings and their pooled form"
    straight = left_by(run)

    shutil.rmtree(run.output / f"checkpoint-{STEPS}")
    shutil.rmtree(run.output / "pipeline", ignore_errors=True)
    (run.output / "pytorch_lora_weights.safetensors").unlink(missing_ok=True)
    assert run.saved_steps() == [SAVED]
    assert run.start() == 0
    resumed = left_by(run)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())


def watched_steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[device.Event, int]]:
    """Filled while a run lasts: by number, what happened from the begin of a step to that of the next one."""
    steps: list[dict[device.Event, int]] = []

    def taken(*arguments: Any, **named: Any) -> Any:
        steps.append(dict(device.events))
        device.events.clear()
        return take_step(*arguments, **named)

    take_step = loop.take_step
    monkeypatch.setattr(loop, "take_step", taken)
    return steps


def test_an_average_on_the_processor_takes_in_many_weights_at_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    shapes = [(3, 4), (5,), (2, 2), (40,), (1, 7)]
    weights = {str(shape): torch.nn.Parameter(torch.randn(shape).bfloat16().cuda()) for shape in shapes}
    monkeypatch.setattr(ema, "DOWNLOAD_NUMBERS", 21)
    near, far = (ema.Ema(weights, decay=0.9, interval=1, device=where) for where in ("accelerator", "cpu"))
    for step in (1, 2):
        for weight in weights.values():
            weight.data.add_(1)
        near.update(step)
        device.events.clear()
        far.update(step)
        assert sum(device.waits().values()) == 3, "the first three weights, the one that is too long, and the last"
    with near.applied():
        wanted = {name: weight.detach().clone() for name, weight in weights.items()}
    with far.applied():
        assert all(torch.equal(weight, wanted[name]) for name, weight in weights.items())
