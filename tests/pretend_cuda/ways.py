"""Every way to train, on the pretend CUDA device: each waits for it once a step. Run by test_pretend_cuda.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.training import loop
from tests.pretend_cuda import device
from tests.runs.harness import SmallRun, copied, draw_set, same, stop_after

STEPS = 3
LOKR = {"algo": "lokr", "linear_dim": 2, "linear_alpha": 2, "apply_preset": {"target_module": ["Attention"]}}
FULL = {"model_type": "full", "learning_rate": 1e-4}
WAYS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "int8": {"base_model_precision": "int8-quanto"},
    "int4": {"base_model_precision": "int4-quanto"},
    "DoRA": {"use_dora": True},
    "LoKr": {"lora_type": "lycoris", "lycoris_config": "{lokr}"},
    "full": FULL,
    "full in bf16": {**FULL, "optimizer": "adamw_bf16", "base_model_default_dtype": "bf16"},
    "EMA": {"use_ema": True, "ema_device": "accelerator"},  # on the processor, each weight is waited for
    "offloaded blocks": {"offload_blocks": 3},
    "offloaded activations": {"offload_activations": True},
    "text encoders": {"train_text_encoder": True},
}


@pytest.fixture(scope="module")
def cached(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    settings = {
        "max_train_steps": STEPS,
        "checkpointing_steps": STEPS,
        "gradient_accumulation_steps": 1,
        "mixed_precision": "bf16",
        "learning_rate": 0.01,
    }
    run = SmallRun(tmp_path_factory.mktemp("ways"), tiny_pipeline, settings=settings)
    draw_set(run.output / "datasets/colors")
    assert run.start(cache_only=True) == 0
    return run


@pytest.mark.parametrize("way", WAYS)
def test_a_step_waits_once(way: str, cached: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second step to the third, what is done between them included."""
    (tmp_path / "lokr.json").write_text(json.dumps(LOKR))
    settings = {name: str(tmp_path / "lokr.json") if value == "{lokr}" else value for name, value in WAYS[way].items()}
    seen: list[dict[device.Event, int]] = []

    def taken(*arguments: Any, **named: Any) -> Any:
        seen.append(dict(device.events))
        device.events.clear()
        return take_step(*arguments, **named)

    take_step = loop.take_step
    monkeypatch.setattr(loop, "take_step", taken)
    assert copied(cached, tmp_path, **settings).start() == 0
    waits = {event: times for event, times in seen[2].items() if event.waits}
    told = [f"{times} {event.kind} {event.op} {event.place}" for event, times in waits.items()]
    assert sum(waits.values()) == 1, "\n".join(told)
    pinned = sum(times for event, times in seen[2].items() if event.kind == "to device, pinned")
    assert pinned >= 5, "latents, noise, sigmas, and of the captions embeddings and their pooled form"


@pytest.mark.parametrize("way", ["LoRA", "int8"])
def test_a_stopped_run_resumes_exactly(
    way: str, cached: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, stopped = (copied(cached, tmp_path / name, **WAYS[way]) for name in ("straight", "stopped"))
    assert straight.start() == 0
    with monkeypatch.context() as patched:
        stop_after(2, patched)
        assert stopped.start() == 143
    assert stopped.start() == 0
    assert same(stopped.weights(), straight.weights())
    assert same(stopped.remembered(STEPS), straight.remembered(STEPS))
