"""What autograd keeps of a block is counted as the libraries really keep it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions, PrecisionOptions
from helpers.models.adapters.lora import attach_lora
from helpers.models.quantization import base_dtype, layers_to_quantize, quantize
from helpers.models.sd3.memory.activations import ForwardShape, saved_activation_bytes
from helpers.models.sd3.memory.architecture import Transformer
from helpers.models.sd3.memory.trainable_parameters import adapted_layers
from helpers.models.sd3.transformer import NEVER_QUANTIZED, target_modules

IMAGES, EDGE, TEXT = 2, 32, 154
BF16 = PrecisionOptions(mixed_precision="bf16")
FP32 = PrecisionOptions(mixed_precision="no")
INT8 = PrecisionOptions(mixed_precision="no", base_model_precision="int8-quanto")


def shape_of(*, as_medium_3_5: bool) -> Transformer:
    return Transformer(
        layers=3,
        heads=4,
        head_width=32,
        text_width=96,
        pooled_width=64,
        positions_per_edge=32,
        dual_attention_layers=(0, 1) if as_medium_3_5 else (),
        qk_norm=as_medium_3_5,
    )


def make(shape: Transformer, precision: PrecisionOptions, *, target: str, full: bool) -> Any:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    model: Any = SD3Transformer2DModel(
        num_layers=shape.layers,
        num_attention_heads=shape.heads,
        attention_head_dim=shape.head_width,
        joint_attention_dim=shape.text_width,
        caption_projection_dim=shape.width,
        pooled_projection_dim=shape.pooled_width,
        in_channels=16,
        out_channels=16,
        pos_embed_max_size=shape.positions_per_edge,
        dual_attention_layers=shape.dual_attention_layers,
        qk_norm="rms_norm" if shape.qk_norm else None,
    )
    model = nn.Module.to(model, base_dtype(precision))
    level = precision.base_model_precision
    quantize(model, level, layers=layers_to_quantize(model, level, keep=NEVER_QUANTIZED))
    model.requires_grad_(full)
    if not full:
        attach_lora(model, lora=LoraOptions(lora_rank=4), modules=target_modules(model, target), seed=0)
    return model


def really_kept(model: Any, precision: PrecisionOptions, *, block: int) -> int:
    """Bytes of the storages that autograd keeps in one block, weights left out."""
    own = {id(weight) for weight in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}
    inside = False
    held: list[Any] = []  # so that no address is used twice

    def keep(tensor: Tensor) -> Tensor:
        if inside and id(tensor) not in own and type(tensor) is Tensor and not _is_weight(tensor, model):
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        held.append(tensor)
        return tensor

    def enter(*_: object) -> None:
        nonlocal inside
        inside = True

    def leave(*_: object) -> None:
        nonlocal inside
        inside = False

    model.transformer_blocks[block].register_forward_pre_hook(enter)
    model.transformer_blocks[block].register_forward_hook(leave)
    dtype = base_dtype(precision)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision.mixed_precision == "bf16"),
    ):
        model(
            hidden_states=torch.randn(IMAGES, 16, EDGE, EDGE, dtype=dtype),
            timestep=torch.full((IMAGES,), 500.0),
            encoder_hidden_states=torch.randn(IMAGES, TEXT, 96, dtype=dtype),
            pooled_projections=torch.randn(IMAGES, 64, dtype=dtype),
        )
    return sum(found.values())


def _is_weight(tensor: Tensor, model: Any) -> bool:
    weights = [weight for weight in model.parameters() if type(weight) is nn.Parameter]
    return any(tensor.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr() for weight in weights)


@pytest.mark.parametrize("as_medium_3_5", [False, True], ids=["SD3", "SD3.5 medium"])
@pytest.mark.parametrize(
    ("precision", "target", "full"),
    [
        (FP32, "attention", False),
        (FP32, "attention+mlp", False),
        (BF16, "attention", False),
        (BF16, "attention+mlp", False),
        (INT8, "attention", False),
        (INT8, "attention+mlp", False),
        (PrecisionOptions(mixed_precision="bf16", base_model_precision="int8-quanto"), "attention", False),
        (
            PrecisionOptions(
                mixed_precision="bf16", base_model_precision="int8-quanto", base_model_default_dtype="fp32"
            ),
            "attention",
            False,
        ),
        (PrecisionOptions(mixed_precision="bf16", base_model_default_dtype="fp32"), "attention", False),
        (FP32, "attention", True),
        (PrecisionOptions(mixed_precision="bf16", base_model_default_dtype="bf16"), "attention", True),
    ],
)
def test_a_block_keeps_what_is_counted(
    precision: PrecisionOptions, target: str, full: bool, as_medium_3_5: bool
) -> None:
    shape = shape_of(as_medium_3_5=as_medium_3_5)
    counted = ForwardShape(
        image_tokens=(EDGE // 2) ** 2,
        text_tokens=TEXT,
        images=IMAGES,
        base=base_dtype(precision).itemsize,
        autocast=precision.mixed_precision == "bf16",
        norms_in_fp32=False,
        full=full,
        adapted=frozenset() if full else frozenset(layer.name for layer in adapted_layers(shape, target)),
        quantized=precision.base_model_precision != "no_change",
    )
    model = make(shape, precision, target=target, full=full)
    measured = really_kept(model, precision, block=1)
    assert saved_activation_bytes(shape, counted, block=1) == pytest.approx(measured, rel=0.08)
