"""Attention kernels, the interval of checkpointing, activations that are away, compiled blocks: numbers stay."""

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.nn.attention import sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from helpers.models.family import ModelComponents
from helpers.models.performance.attention import KERNELS, can_attend, leave_out_cudnn, use_attention
from helpers.models.performance.compile import compile_blocks
from helpers.models.performance.offload import BlockOffloader, offload_saved_tensors
from helpers.models.sd3.transformer import blocks, enable_checkpointing, predict
from tests.unit.models.stepped import CPU, Change, given, gradients, loaded, same

BUCKETS = ((8, 8), (8, 10), (12, 12))


class Operations(TorchDispatchMode):
    """The names of all that PyTorch was asked to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("attention", "flash"), [("auto", True), ("flash", True), ("math", False)])
def test_attention_is_computed_by_the_kernel_that_was_asked_for(
    attention: str, flash: bool, parts: ModelComponents
) -> None:
    """In the backward pass's recomputation, too; nothing else's attention is touched."""
    denoiser, weights = loaded(parts, lambda each: use_attention(each, attention))
    with Operations() as asked:
        gradients(denoiser, weights)
    assert any("_scaled_dot_product_flash" in name for name in asked.names) == flash
    with Operations() as elsewhere:
        nn.functional.scaled_dot_product_attention(*[torch.ones(1, 1, 4, 8)] * 3)
    assert any("_scaled_dot_product_flash" in name for name in elsewhere.names)


def test_kernels_that_a_processor_lacks_are_known() -> None:
    can = [name for name in ("auto", "flash", "efficient", "cudnn", "math") if has(name)]
    assert can == ["auto", "flash", "math"]


def has(attention: str) -> bool:
    return can_attend(attention, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize(("capability", "cudnn"), [((9, 0), False), ((8, 9), True), ((10, 0), True), ((12, 0), True)])
def test_cudnns_kernel_is_left_out_on_hopper_unless_asked_for(
    capability: tuple[int, int], cudnn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    kernels = torch.backends.cuda
    try:
        leave_out_cudnn(CPU)
        assert kernels.cudnn_sdp_enabled()
        leave_out_cudnn(torch.device("cuda", 0))
        assert kernels.cudnn_sdp_enabled() is cudnn
        assert kernels.flash_sdp_enabled() and kernels.mem_efficient_sdp_enabled() and kernels.math_sdp_enabled()
        with sdpa_kernel(KERNELS["cudnn"]):
            assert kernels.cudnn_sdp_enabled()
        assert kernels.cudnn_sdp_enabled() is cudnn
    finally:
        kernels.enable_cudnn_sdp(True)


@pytest.mark.parametrize(("interval", "again"), [(1, [0, 1, 2]), (2, [0, 2]), (3, [0])])
def test_every_nth_block_is_computed_again_and_the_numbers_stay(
    interval: int, again: list[int], parts: ModelComponents
) -> None:
    plain = gradients(*loaded(parts, checkpointed=False))
    denoiser, weights = loaded(parts, lambda each: enable_checkpointing(each, interval=interval))
    computed: list[int] = []
    for number, block in enumerate(blocks(denoiser)):
        block.register_forward_pre_hook(lambda *_, number=number: computed.append(number))
    assert same(gradients(denoiser, weights), plain)
    assert sorted(computed) == sorted([0, 1, 2, *again])


@pytest.mark.parametrize("checkpointed", [True, False])
def test_activations_that_are_away_come_back_the_same(checkpointed: bool, parts: ModelComponents) -> None:
    denoiser, weights = loaded(parts, checkpointed=checkpointed)
    plain = gradients(denoiser, weights)
    with offload_saved_tensors(denoiser, least_bytes=1), Operations() as asked:
        predicted = predict(denoiser, *given())
    assert "aten.copy_.default" in asked.names
    assert same([predicted.detach(), *torch.autograd.grad(predicted.square().mean(), weights)], plain)


def test_what_is_away_is_held_nowhere_else_and_parameters_stay() -> None:
    layer = nn.Linear(8, 8).requires_grad_(False)
    with offload_saved_tensors(layer, least_bytes=1):
        hidden = torch.ones(1, 8, requires_grad=True).exp()
        kept = weakref.ref(hidden)
        result = layer(hidden.square())
        del hidden
    assert kept() is None
    assert result.grad_fn._saved_mat2.data_ptr() == layer.weight.data_ptr()


def test_a_lora_takes_bf16_inputs_as_they_are_and_the_numbers_stay(parts: ModelComponents) -> None:
    """peft would make an fp32 copy of each, and autocast a bf16 one of that."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    denoiser, weights = loaded(parts, base_model_default_dtype="bf16")
    with Operations() as ours:
        found = gradients(denoiser, weights, bf16=True)
    adapted = [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]
    for layer in adapted:
        del layer._cast_input_dtype
    with Operations() as theirs:
        assert same(found, gradients(denoiser, weights, bf16=True))
    copies = [asked.names.count("aten._to_copy.default") for asked in (ours, theirs)]
    assert copies[0] < copies[1] - 2 * len(adapted)


def test_compiled_code_is_for_all_buckets_and_names_stay(parts: ModelComponents, compiling: None) -> None:
    """One compilation for each kind of block: the first, whose input needs no gradient, those between, and the last.

    With the compiler's last stage left out, which alone may round otherwise, every number is the same to the bit; here
    on quantized blocks that visit, with activations that are away.
    """
    plain = loaded(parts, base_model_precision="int8-quanto")
    denoiser, weights = loaded(
        parts,
        lambda each: use_attention(each, "math"),
        lambda each: BlockOffloader(blocks(each), device=CPU),
        lambda each: compile_blocks(blocks(each), backend="aot_eager"),
        waiting=3,
        base_model_precision="int8-quanto",
    )
    use_attention(plain[0], "math")
    for height, width in BUCKETS:
        with offload_saved_tensors(denoiser, least_bytes=1):
            found = gradients(denoiser, weights, height=height, width=width)
        assert same(found, gradients(*plain, height=height, width=width))
    assert counters["stats"]["unique_graphs"] == 3
    assert not counters["graph_break"]
    with torch.no_grad():
        assert torch.equal(predict(denoiser, *given(10, 10)), predict(plain[0], *given(10, 10)))
    assert counters["stats"]["unique_graphs"] == 3, "images are drawn without compiling"
    assert denoiser.state_dict().keys() == plain[0].state_dict().keys()


@pytest.mark.parametrize("level", ["no_change", "int8-quanto"])
def test_compiled_gradients_in_bf16_are_as_near_to_the_true_ones(
    level: str, compiler: str, parts: ModelComponents, compiling: None
) -> None:
    """Both are rounded, each in its way; the truth is computed in fp32, of the same frozen weights."""
    if compiler != "inductor":
        pytest.skip("takes minutes: say --inductor")

    def found(*changes: Change, base: str = "bf16") -> Tensor:
        denoiser, weights = loaded(parts, *changes, base_model_precision=level, base_model_default_dtype=base)
        return torch.cat([each.float().flatten() for each in gradients(denoiser, weights, bf16=base == "bf16")[1:]])

    def as_in_bf16(denoiser: nn.Module) -> None:
        for weight in denoiser.parameters():
            if not weight.requires_grad and type(weight) is nn.Parameter:
                weight.data = weight.data.bfloat16().float()

    true = found(as_in_bf16, base="fp32")
    eager = found()
    compiled = found(lambda each: compile_blocks(blocks(each), backend=compiler))
    assert not torch.equal(compiled, eager)
    assert (compiled - true).norm() < 1.2 * (eager - true).norm() < 0.05 * true.norm()


@pytest.fixture
def compiling() -> Iterator[None]:
    """Dynamo as it is in a fresh process, and again afterwards."""
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = limit
