"""The layers of SD3 in each preset of `lora_target`, by name only, so that no model needs to be loaded."""

from collections.abc import Iterable

IMAGE_ATTENTION = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0")
TEXT_ATTENTION = ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out")
SECOND_ATTENTION = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
MLP = ("ff.net", "ff_context.net")
SETS = {
    "image-attention": IMAGE_ATTENTION,
    "attention": IMAGE_ATTENTION + TEXT_ATTENTION + SECOND_ATTENTION,
    "attention+mlp": IMAGE_ATTENTION + TEXT_ATTENTION + SECOND_ATTENTION + MLP,
}


def without_effect(layers: int) -> str:
    """The last block's text queries, whose result is discarded."""
    return f"transformer_blocks.{layers - 1}.attn.add_q_proj"


def modules_in_set(names: Iterable[str], target: str, *, layers: int) -> list[str]:
    """The linear layers among `names` in one of the `SETS`."""
    wanted = SETS[target]
    return [
        name for name in names if name != without_effect(layers) and any(f".{each}." in f".{name}." for each in wanted)
    ]
