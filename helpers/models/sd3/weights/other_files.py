"""Identifies unexpected files by their tensors' names, for error messages."""

from collections.abc import Iterable, Mapping, Sequence

from helpers.models.formats.modelspec import PREFIX as MODELSPEC
from helpers.models.sd3.facts import ARCHITECTURE

KOHYA_S_FAMILY = "stable-diffusion-3"
"""The architecture in sd-scripts' headers."""

LORA_MODELS = (
    (("single_transformer_blocks", "single_blocks", "double_blocks"), "Flux or HunyuanVideo"),
    (("input_blocks", "output_blocks", "middle_block", "down_blocks", "up_blocks"), "Stable Diffusion 1, 2 or XL"),
    (("lora_te_text_model",), "Stable Diffusion 1 or 2"),
    (("img_mlp", "txt_mlp", "img_mod", "txt_mod"), "Qwen-Image"),
    (("cross_attn", "blocks_0_ffn", "blocks.0.ffn"), "Wan"),
    (("attn1", "caption_projection"), "PixArt, LTX-Video or Sana"),
    (("feed_forward", "noise_refiner"), "Lumina or Z-Image"),
)
"""Parts of layer names in a LoRA, and the model that has them."""

KINDS = (
    (("lokr_",), "a LyCORIS adapter (LoKr)"),
    (("hada_",), "a LyCORIS adapter (LoHa)"),
    (("oft_", "glora", "boft", ".a1.weight", "on_input"), "a LyCORIS adapter of another kind"),
    ((".diff.", ".diff_b.", ".set_weight.", ".w_norm."), "full differences of weights"),
    (("bundle_emb", "emb_params", "string_to_param"), "a textual inversion"),
    (("comfy_quant", "weight_scale", "scale_weight", "scaled_fp8"), "a model with quantized (fp8 or fp4) weights"),
    (("controlnet",), "a ControlNet"),
    (("ip_adapter", "image_proj"), "an IP-Adapter"),
    (("lora_mid",), "a LoCon with a Tucker decomposition"),
    (("joint_blocks.",), "an SD3 model in the original layout"),
    (("double_blocks.", "single_transformer_blocks."), "a Flux model"),
    (("diffusion_model.", "input_blocks.", "down_blocks.", "up_blocks."), "another model or a part of one"),
    (("transformer_blocks.",), "the transformer of a model in diffusers layout"),
    (("text_model.", "encoder.block."), "a text encoder"),
    (("decoder.", "first_stage_model."), "a VAE"),
)
"""Parts of tensor names (with a dot appended), and a description of the file."""


def model_of_lora(names: Iterable[str], header: Mapping[str, str]) -> str:
    """The model that a LoRA was trained on, by its header or layers; empty for SD3 or if unknown."""
    said = header.get(f"{MODELSPEC}architecture", "")
    if said and not said.startswith((ARCHITECTURE, KOHYA_S_FAMILY)):
        return said.partition("/")[0]
    return _first(LORA_MODELS, names)


def what_it_is(names: Sequence[str]) -> str:
    """A description of a file with these tensor names."""
    if not names:
        return "a file without any tensors"
    return _first(KINDS, names) or f"something else, with tensors such as {min(names)}"


def _first(table: Sequence[tuple[tuple[str, ...], str]], names: Iterable[str]) -> str:
    names = tuple(names)
    return next((what for marks, what in table if any(mark in f"{name}." for name in names for mark in marks)), "")
