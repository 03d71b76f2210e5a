"""What only a CUDA device can show: a run there, its memory, and that speed settings keep the numbers there, too."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.runs.harness import SmallRun, copied, draw_set, same, stop_after

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
STEPS = 3


@pytest.fixture(scope="module")
def plain(tiny_pipeline: Path, tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A finished LoRA in bf16, its caches filled."""
    folder = tmp_path_factory.mktemp("cuda")
    draw_set(folder / "output/datasets/colors")
    settings = {
        "max_train_steps": STEPS,
        "checkpointing_steps": STEPS,
        "gradient_accumulation_steps": 1,
        "mixed_precision": "bf16",
        "attention": "math",  # whose backward pass adds up in one order
    }
    run = SmallRun(folder, tiny_pipeline, settings=settings)
    assert run.start() == 0
    return run


@pytest.mark.parametrize("compiler", ["no", "inductor"])
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(
    compiler: str, plain: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, stopped = (
        copied(plain, tmp_path / name, training_dynamo_backend=compiler) for name in ("straight", "stopped")
    )
    assert straight.start(resume_from_checkpoint="none") == 0
    with monkeypatch.context() as patched:
        stop_after(2, patched)
        assert stopped.start(resume_from_checkpoint="none") == 143
    assert stopped.start() == 0
    assert same(stopped.weights(), straight.weights())


@pytest.mark.parametrize("saving", [{"offload_blocks": 3}, {"offload_activations": True}], ids=str)
@pytest.mark.parametrize("level", ["no_change", "int8-quanto"])
def test_what_waits_elsewhere_changes_no_number(
    saving: dict[str, object], level: str, plain: SmallRun, tmp_path: Path
) -> None:
    straight = copied(plain, tmp_path / "straight", base_model_precision=level)
    saved = copied(plain, tmp_path / "saved", base_model_precision=level, **saving)
    for run in (straight, saved):
        assert run.start(resume_from_checkpoint="none") == 0
    assert same(saved.weights(), straight.weights())


@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() != (9, 0), reason="the card is no H100 or H200"
)
def test_hopper_computes_attention_with_flash(plain: SmallRun, device: torch.device) -> None:
    """After a run, as the choice holds for the process. The kernels' names are PyTorch's own."""
    query = torch.ones(1, 2, 64, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
    with torch.profiler.profile() as profile:
        torch.nn.functional.scaled_dot_product_attention(query, query, query).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert any("flash_attention" in name for name in names)
    assert not any("cudnn_attention" in name for name in names)


def test_tensors_on_two_devices_do_not_mix(device: torch.device) -> None:
    """What the other tests here rely on, on the pretend device as on a real one."""
    with pytest.raises(RuntimeError, match="device"):
        torch.ones(2, 2, device=device) @ torch.ones(2, 2)


def test_visiting_blocks_take_two_rooms(device: torch.device) -> None:
    from helpers.models.performance.offload import BlockOffloader

    before = torch.cuda.memory_allocated(device)
    blocks = [torch.nn.Linear(1024, 1024, bias=False).requires_grad_(False) for _ in range(8)]
    plain = [block.weight.detach().clone() for block in blocks]
    BlockOffloader(blocks, device=device)
    hidden = torch.ones(1, 1024, device=device)
    with torch.no_grad():
        for block, weight in zip(blocks, plain, strict=True):
            assert torch.equal(block(hidden), hidden @ weight.to(device).T)
    of_one = 4 * 1024 * 1024
    assert torch.cuda.memory_allocated(device) - before < 3.5 * of_one


def test_int8_takes_half_of_bf16_on_the_device(device: torch.device) -> None:
    from helpers.models.quantization import layers_to_quantize, quantize

    def held(level: str) -> int:
        before = torch.cuda.memory_allocated(device)
        model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024, bias=False) for _ in range(8)]).bfloat16()
        quantize(model, level, layers=layers_to_quantize(model, level))
        model.to(device)
        return torch.cuda.memory_allocated(device) - before

    assert held("int8-quanto") < 0.55 * held("no_change")


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The device, with nothing of this test left on it."""
    torch.cuda.empty_cache()
    yield torch.device("cuda")
    torch.cuda.empty_cache()
