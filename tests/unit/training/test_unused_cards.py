"""A card that the driver lists and PyTorch cannot use stops a run, and `force_cpu` does not ask for any card."""

import os
from pathlib import Path

import pytest
import torch

from helpers.config.env.gpus import ListedCards
from helpers.config.options.model import PrecisionOptions
from helpers.config.options.training import RunOptions
from helpers.errors import ConfigError
from helpers.training.distributed.runtime import open_runtime
from helpers.training.distributed.unused_cards import fix_of

OLD = ListedCards(names=("NVIDIA GeForce RTX 3090",), driver_version="535.54.03")
PRECISION = PrecisionOptions(mixed_precision="no")
ONE_THREAD = RunOptions(torch_num_threads=1)


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that lists a card."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA GeForce RTX 3090, 535.54.03'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="PyTorch can use this machine's card")
def test_a_card_that_pytorch_cannot_use_stops_the_run(listed: None) -> None:
    with pytest.raises(ConfigError) as raised:
        open_runtime(PRECISION, ONE_THREAD)
    said = str(raised.value)
    assert "the driver lists NVIDIA GeForce RTX 3090 (driver 535.54.03)" in said
    assert f"PyTorch {torch.__version__} for " in said
    with pytest.raises((RuntimeError, AssertionError)) as pytorchs_own:
        torch.cuda.init()
    assert " ".join(str(pytorchs_own.value).split()) in said
    assert "FORCE_CPU=true trains on the CPU" in said
    assert open_runtime(PRECISION, RunOptions(torch_num_threads=1, force_cpu=True)).device.type == "cpu"


def test_the_processor_is_taken_where_a_card_works_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.state import AcceleratorState, PartialState

    for state in (AcceleratorState, PartialState):
        monkeypatch.setattr(state, "_shared_state", {})  # which remembers the device of earlier tests
    for module in (torch.accelerator, torch.cuda):
        monkeypatch.setattr(module, "is_available", lambda: True)
    assert open_runtime(PRECISION, RunOptions(torch_num_threads=1, force_cpu=True)).device.type == "cpu"


@pytest.mark.parametrize(
    ("cuda", "hip", "cards", "fix"),
    [
        ("13.0", None, OLD, "update NVIDIA's driver to 580 or newer and restart, or install a PyTorch for an older"),
        ("13.0", None, ListedCards(names=("x",), driver_version="580.65.06"), "update NVIDIA's driver and restart"),
        ("13.0", None, ListedCards(names=("x",), driver_version=""), "update NVIDIA's driver to 580 or newer"),
        (None, None, OLD, "install a PyTorch for CUDA"),
        (None, "7.1", OLD, "install a PyTorch for CUDA"),
    ],
)
def test_the_fix_is_the_builds(
    cuda: str | None, hip: str | None, cards: ListedCards, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert fix_of(cards, is_nvidia=True).startswith(fix)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert fix_of(cards, is_nvidia=True).startswith("unset CUDA_VISIBLE_DEVICES")
