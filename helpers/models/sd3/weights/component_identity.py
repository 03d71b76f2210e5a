"""The identity of a VAE or text encoder: the config entries that affect its outputs, and its tensors.

It is the same for a folder, whose config.json has more entries, and for a file, which has no config.
"""

from collections.abc import Mapping
from typing import Any

from helpers.models.formats.safetensors import LazyTensor
from helpers.models.sd3.weights.original.text import ALSO_SHARED, POSITIONS, SHARED

CLIP_FACTS: Mapping[str, Any] = {
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "num_attention_heads": 8,
    "eos_token_id": 49407,
}
T5_FACTS: Mapping[str, Any] = {
    "d_kv": 64,
    "num_heads": 8,
    "feed_forward_proj": "relu",
    "layer_norm_epsilon": 1e-6,
    "relative_attention_max_distance": 128,
}
VAE_FACTS: Mapping[str, Any] = {
    "act_fn": "silu",
    "norm_num_groups": 32,
    "mid_block_add_attention": True,
    "use_quant_conv": True,
}
"""Config entries that shapes do not show, with the library's defaults."""


def facts_for_identity(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The config entries that a VAE's or text encoder's outputs depend on; None for a transformer's config."""
    for key, facts in (("d_model", T5_FACTS), ("block_out_channels", VAE_FACTS), ("hidden_size", CLIP_FACTS)):
        if key in config:
            return {name: config.get(name, default) for name, default in facts.items()}
    return None


def without_copies(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors without the redundant ones that only some files have."""
    copies = {POSITIONS} | ({ALSO_SHARED} if SHARED in tensors else set())
    return {name: each for name, each in tensors.items() if name not in copies}
