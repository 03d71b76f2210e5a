"""What tells a VAE or text encoder from another: the facts of its config by which it computes, and its own tensors.

A folder's config.json says more than that, and a file has none; what both come to is the same.
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
"""The facts that shapes do not tell, with what the library takes where a config leaves them out."""


def facts_for_identity(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the outputs of a VAE or text encoder depend on besides its tensors; None for a transformer's config."""
    for sign, facts in (("d_model", T5_FACTS), ("block_out_channels", VAE_FACTS), ("hidden_size", CLIP_FACTS)):
        if sign in config:
            return {name: config.get(name, usual) for name, usual in facts.items()}
    return None


def without_copies(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors without those that are in some files only, and say nothing."""
    copies = {POSITIONS} | ({ALSO_SHARED} if SHARED in tensors else set())
    return {name: each for name, each in tensors.items() if name not in copies}
