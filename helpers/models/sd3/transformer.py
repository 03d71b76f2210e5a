"""SD3's transformer: loading, prediction, checkpointing and LoRA targets."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from helpers.config.options.model import PrecisionOptions
from helpers.models.adapters.lora import linear_modules, match_modules, split_names
from helpers.models.contexts import hide_bitsandbytes
from helpers.models.family import ModelComponents
from helpers.models.loading import WeightFormat, load_weights
from helpers.models.quantization import base_dtype
from helpers.models.sd3.lora_targets import SETS, modules_in_set
from helpers.models.sd3.weights.component_files import part_weights, read_config

# The network's input, output and timestep layers: few weights, with a large effect on the result.
NEVER_QUANTIZED = ("pos_embed.*", "time_text_embed.*", "context_embedder", "norm_out.*", "proj_out")


def load_denoiser(
    parts: ModelComponents, precision: PrecisionOptions, device: torch.device, *, waiting: int = 0
) -> nn.Module:
    """The transformer, frozen, in eval mode, on `device`; `precision` with its `mixed_precision` resolved.

    Read block by block, each quantized before the next is read, so that the unquantized model is never in memory.
    waiting: how many of its last blocks stay in CPU memory.
    """
    denoiser = skeleton(parts)
    count = len(denoiser.transformer_blocks)
    form = WeightFormat(
        dtype=base_dtype(precision),
        device=device,
        precision=precision.base_model_precision,
        quantize_via=precision.quantize_via,
        keep=NEVER_QUANTIZED,
        offloaded=tuple(f"transformer_blocks.{block}" for block in range(count)[-waiting:]) if waiting else (),
    )
    return load_weights(denoiser, part_weights(parts.transformer, parts.weights_variant), form, name="transformer")


def skeleton(parts: ModelComponents) -> Any:
    """The transformer on the meta device: all its modules, without values."""
    with hide_bitsandbytes():
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    with torch.device("meta"):
        return SD3Transformer2DModel.from_config(read_config(parts.transformer))


def blocks(denoiser: nn.Module) -> list[nn.Module]:
    """The transformer's blocks, from the first to the last."""
    return list(denoiser.transformer_blocks)  # type: ignore[arg-type]


def enable_checkpointing(denoiser: nn.Module, *, interval: int = 1) -> None:
    """Recompute the activations of every `interval`-th block in the backward pass instead of saving them."""
    recomputed = frozenset(blocks(denoiser)[::interval])

    def run_block(block: nn.Module, *inputs: Any) -> Any:
        return checkpoint(block, *inputs, use_reentrant=False) if block in recomputed else block(*inputs)

    denoiser.enable_gradient_checkpointing(run_block)  # type: ignore[operator]


def target_modules(denoiser: nn.Module, target: str) -> list[str]:
    """The layers that a `lora_target` selects; raises ModelError for a name that does not exist."""
    linear = linear_modules(denoiser)
    if target in SETS:
        return modules_in_set(linear, target, layers=len(denoiser.transformer_blocks))  # type: ignore[arg-type]
    return match_modules(linear, split_names(target), option="lora_target")


def predict(
    denoiser: nn.Module,
    noisy: Tensor,
    sigmas: Tensor,
    prompt_embeds: Tensor,
    pooled: Tensor,
    tokens: Tensor | None = None,
) -> Tensor:
    """The velocity [B, C, h, w], in the denoiser's own dtype, of `noisy` [B, C, h, w] at `sigmas` [B].

    sigmas in (0, 1], prompt_embeds [B, L, D], pooled [B, P]; the model's timestep is 1000 * sigma.
    tokens: see `Predict`.
    """
    dtype = next(denoiser.parameters()).dtype
    more = {} if tokens is None else {"tokens": tokens}
    return denoiser(
        hidden_states=noisy.to(dtype),
        timestep=sigmas * 1000,
        encoder_hidden_states=prompt_embeds.to(dtype),
        pooled_projections=pooled.to(dtype),
        return_dict=False,
        **more,
    )[0]
