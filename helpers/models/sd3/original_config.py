"""The transformer's config of a file in the original layout, which has none: by its tensors' names and shapes alone."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.errors import ModelError
from helpers.models.sd3.original_layout import PREFIX, count_of, to_diffusers
from helpers.models.tensor_files import Planned, all_opened

HEAD_WIDTH = 64
"""Of every published SD3; where queries and keys are normalised, the tensors themselves say it."""

FIRST = "joint_blocks.0."


def transformer_in(tensors: Mapping[str, Planned]) -> dict[str, Planned]:
    """The transformer's tensors among a file's, without prefix; some files hold nothing else, and have none."""
    prefix = PREFIX if any(name.startswith(PREFIX) for name in tensors) else ""
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def config_of_file(path: Path) -> dict[str, Any]:
    """What diffusers' config.json would say of the transformer; raises ModelError where the file holds no SD3."""
    with all_opened([path]) as (tensors, _):
        mine = transformer_in(tensors)
        if not any(name.startswith(FIRST) for name in mine):
            raise ModelError(
                f"{path} holds no SD3 in the original layout ({PREFIX}{FIRST}...), but tensors such as "
                f"{min(mine, default='none')}. Name a checkpoint of SD3 or SD3.5, or a folder in diffusers layout."
            )
        return _config({name: each.shape for name, each in to_diffusers(mine).items()})


def _config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    width, channels, patch, _ = shapes["pos_embed.proj.weight"]
    layers = count_of(shapes)
    head_width = shapes.get("transformer_blocks.0.attn.norm_q.weight", (HEAD_WIDTH,))[0]
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": patch,
        "in_channels": channels,
        "out_channels": shapes["proj_out.weight"][0] // patch**2,
        "num_layers": layers,
        "attention_head_dim": head_width,
        "num_attention_heads": width // head_width,
        "joint_attention_dim": shapes["context_embedder.weight"][1],
        "caption_projection_dim": shapes["context_embedder.weight"][0],
        "pooled_projection_dim": shapes["time_text_embed.text_embedder.linear_1.weight"][1],
        "pos_embed_max_size": math.isqrt(shapes["pos_embed.pos_embed"][1]),
        "dual_attention_layers": [
            number for number in range(layers) if f"transformer_blocks.{number}.attn2.to_q.weight" in shapes
        ],
        "qk_norm": "rms_norm" if "transformer_blocks.0.attn.norm_q.weight" in shapes else None,
    }
