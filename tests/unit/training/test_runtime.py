"""The engine: formats by device, and several processes that learn as one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.config.options.model import PrecisionOptions
from helpers.config.options.training import OptimizerOptions, RunOptions
from helpers.dataloader.types import Position
from helpers.training.distributed.runtime import computes_bf16, open_runtime, resolve_precision
from helpers.training.loop import take_step
from helpers.training.optim.optimizer_step import StandardStep
from helpers.training.optim.optimizers import make_optimizer
from helpers.training.plan import TrainState
from tests.unit.training.small_run import SmallDenoiser, batches_from, small_learner, small_order, small_plan


def test_what_was_asked_for_is_kept_and_the_rest_is_resolved() -> None:
    device = torch.device("cpu")
    assert resolve_precision(PrecisionOptions(mixed_precision="bf16"), device).mixed_precision == "bf16"
    assert resolve_precision(PrecisionOptions(mixed_precision="no"), device).mixed_precision == "no"
    expected = "bf16" if computes_bf16(device) else "no"
    assert resolve_precision(PrecisionOptions(), device).mixed_precision == expected
    assert resolve_precision(PrecisionOptions(), torch.device("mps")).mixed_precision == "no"


def test_one_process_wraps_nothing() -> None:
    runtime = open_runtime(PrecisionOptions(mixed_precision="no"), RunOptions())
    denoiser = SmallDenoiser()
    assert (runtime.rank, runtime.world_size) == (0, 1)
    assert runtime.prepare(denoiser) is denoiser
    runtime.barrier()


def test_the_environment_does_not_divide_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    runtime = open_runtime(PrecisionOptions(mixed_precision="no"), RunOptions())
    weight = torch.nn.Parameter(torch.ones(1))
    runtime.backward(3 * weight)
    assert weight.grad is not None
    assert weight.grad.item() == 3


def test_threads_are_as_many_as_asked() -> None:
    before = torch.get_num_threads()
    try:
        open_runtime(PrecisionOptions(), RunOptions(torch_num_threads=before + 1))
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("mixed_precision", "expected"), [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_autocast_computes_in_the_format_asked_for(mixed_precision: str, expected: torch.dtype) -> None:
    runtime = open_runtime(PrecisionOptions(mixed_precision=mixed_precision), RunOptions())
    with runtime.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is expected


def three_steps(*, batch_size: int, rank: int = 0, world_size: int = 1) -> dict[str, torch.Tensor]:
    """The weights after three steps of two batches each, on this rank."""
    step_context = small_learner(denoiser := SmallDenoiser())
    order = small_order(batch_size=batch_size, world_size=world_size)
    optimizer = make_optimizer(OptimizerOptions(optimizer="adafactor"), weights=step_context.weights, seed=0)
    plan = small_plan(order, steps=3, accumulation=2, learning_rate=0.1)
    batches = batches_from(Position(), order=order, rank=rank)
    state = TrainState()
    stepping = StandardStep(step_context.runtime, weights=step_context.weights, optimizer=optimizer, max_grad_norm=1.0)
    for _ in range(3):
        take_step(step_context, stepping=stepping, state=state, batches=batches, plan=plan, seeded=False)
    assert step_context.runtime.on_any_rank(rank == world_size - 1)
    assert not step_context.runtime.on_any_rank(False)
    return {name: weight.detach().clone() for name, weight in denoiser.weights().items()}


def test_two_processes_learn_as_one_with_twice_the_batch(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    subprocess.run([*command, "-m", "tests.unit.training.test_runtime", str(tmp_path)], check=True, timeout=120)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    for name, weight in three_steps(batch_size=4).items():
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], weight)


def one_of_two(folder: Path) -> None:
    """What each of the two processes does."""
    runtime = open_runtime(PrecisionOptions(), RunOptions(torch_num_threads=1))
    assert runtime.world_size == 2
    weights = three_steps(batch_size=2, rank=runtime.rank, world_size=2)
    save_file(weights, folder / f"{runtime.rank}.safetensors")
    runtime.shutdown()


if __name__ == "__main__":
    one_of_two(Path(sys.argv[1]))


def test_tf32_is_allowed_only_where_it_is_said() -> None:
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    try:
        for said in (False, True):
            matmul.allow_tf32 = cudnn.allow_tf32 = False
            open_runtime(PrecisionOptions(allow_tf32=said, mixed_precision="no"), RunOptions(torch_num_threads=1))
            assert matmul.allow_tf32 is cudnn.allow_tf32 is said
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
