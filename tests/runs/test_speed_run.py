"""Speed and memory settings on the real path: what is learned stays the same to the bit, and resumed as straight."""

from pathlib import Path

import pytest
import torch

from helpers.models.performance import offload as visiting
from helpers.training import performance as speed
from tests.runs.harness import SmallRun, copied, draw_set, same, stop_after

STEPS = 3
SAVING = {
    "offload_blocks": 2,
    "offload_activations": True,
}


@pytest.fixture(scope="module")
def plain(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A finished run without any of the settings, its caches filled."""
    folder = tmp_path_factory.mktemp("speed")
    draw_set(folder / "output/datasets/colors")
    settings = {"max_train_steps": STEPS, "checkpointing_steps": STEPS, "gradient_accumulation_steps": 1}
    run = SmallRun(folder, tiny_pipeline, settings=settings)
    assert run.start() == 0
    return run


def test_blocks_and_activations_that_wait_elsewhere_change_nothing(
    plain: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visitors: list[visiting.BlockOffloader] = []
    made = visiting.BlockOffloader
    monkeypatch.setattr(speed, "BlockOffloader", lambda *a, **b: visitors.append(made(*a, **b)))
    run = copied(plain, tmp_path, **SAVING)
    assert run.start(resume_from_checkpoint="none") == 0
    assert set(visitors[0].resident_blocks) == {0, 1}
    assert same(run.weights(), plain.weights())


def test_an_interval_and_a_kernel_reach_the_model(plain: SmallRun, tmp_path: Path) -> None:
    """Another kernel rounds otherwise; computing less again does not."""
    run = copied(plain, tmp_path, gradient_checkpointing_interval=2)
    assert run.start(resume_from_checkpoint="none") == 0
    assert same(run.weights(), plain.weights())
    assert run.start(resume_from_checkpoint="none", attention="math") == 0
    assert not same(run.weights(), plain.weights())


def test_a_kernel_that_the_device_lacks_is_refused(plain: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU may have it")
    assert plain.start(attention="cudnn") == 1
    assert "ATTENTION = cudnn" in capsys.readouterr().err


def test_a_compiled_run_goes_on_as_if_it_had_not_been_stopped(
    compiler: str, plain: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With images of several sizes and learning text encoders; with `--inductor` in bf16 on a base of 8 bits, too."""
    rough = {"mixed_precision": "bf16", "base_model_precision": "int8-quanto"}
    precision = rough if compiler == "inductor" else {}
    whole = speed.compile_blocks
    monkeypatch.setattr(speed, "compile_blocks", lambda blocks, *, backend: whole(blocks, backend=compiler))
    straight, stopped = (
        copied(plain, tmp_path / name, training_dynamo_backend="inductor", train_text_encoder=True, **precision)
        for name in ("straight", "stopped")
    )
    assert straight.start(resume_from_checkpoint="none") == 0
    assert "compile the model" in capsys.readouterr().out
    with monkeypatch.context() as patched:
        stop_after(2, patched)
        assert stopped.start(resume_from_checkpoint="none") == 143
    assert stopped.start() == 0
    assert same(stopped.weights(), straight.weights())
