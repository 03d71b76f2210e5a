"""Derives the configs of a single file's components from tensor names and shapes, and from the file's header.

What shapes do not show is assumed as in every published SD3. For other models, such as small ones for tests, this
program writes the difference into the header of their files.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from helpers.errors import ModelError
from helpers.models.formats.safetensors import LazyTensor
from helpers.models.sd3.memory.architecture import Transformer, transformer_of
from helpers.models.sd3.weights.original.file import TRANSFORMER, VAE, open_in_file
from helpers.models.sd3.weights.original.keys import POSITIONS, count_of
from helpers.models.sd3.weights.original.text import CLIP_LAYERS, T5, T5_LAYERS, layers_of
from helpers.models.sd3.weights.original.vae import resnets_in

HEAD_WIDTH = 64
"""The head width of every published SD3 and its CLIPs."""

HEADER_ENTRY = "shapes_leave_open"

Shapes = Mapping[str, tuple[int, ...]]


def config_in_file(path: Path, part: str) -> dict[str, Any]:
    """A component's config; raises ModelError if the component is incomplete, or not one of SD3's."""
    with open_in_file(path, part) as (tensors, metadata):
        try:
            open_facts = json.loads(metadata.get(HEADER_ENTRY, "{}")).get(part, {})
            config = config_of(tensors, part) | open_facts
        except KeyError as error:
            reason = f"The {part} lacks the tensor {error.args[0]}; is the download complete?"
            raise ModelError(f"{path}: {reason}") from error
        except (IndexError, ValueError, ZeroDivisionError, TypeError, AttributeError) as error:
            raise ModelError(
                f"{path}: The {part} has shapes or a header that no SD3 has; is the download complete?"
            ) from error
    try:
        if part == TRANSFORMER:
            _check_transformer(tensors, config)
        heads = int(config.get("num_attention_heads", 1))
        width = config.get("hidden_size", heads * int(config.get("attention_head_dim", 1)))
        if part != T5 and part != VAE and (heads < 1 or width % heads or width != _width(tensors, part)):
            raise ModelError(
                f"The {part} is {_width(tensors, part)} wide, which is not a multiple of {HEAD_WIDTH}, the head "
                "width of every published SD3. Name its folder in diffusers layout, whose config.json has the heads."
            )
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    return config


def config_of(tensors: Mapping[str, LazyTensor], part: str) -> dict[str, Any]:
    """A component's config from its tensors' shapes, by diffusers' names; other entries as published."""
    shapes = {name: each.shape for name, each in tensors.items()}
    if part == TRANSFORMER:
        return _transformer(shapes)
    if part == VAE:
        return _vae(shapes)
    return _t5(shapes) if part == T5 else _clip(shapes, part)


def left_open(tensors: Mapping[str, LazyTensor], config: Mapping[str, Any], part: str) -> dict[str, Any]:
    """A component's config entries that differ from `config_of`; empty for published models."""
    derived = config_of(tensors, part)
    return {key: config[key] for key in derived if key in config and _plain(config[key]) != _plain(derived[key])}


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _width(tensors: Mapping[str, LazyTensor], part: str) -> int:
    name = "pos_embed.proj.weight" if part == TRANSFORMER else "text_model.final_layer_norm.weight"
    return tensors[name].shape[0]


def _check_transformer(tensors: Mapping[str, LazyTensor], config: Mapping[str, Any]) -> None:
    """Raise ModelError for missing or additional tensors."""
    wanted = {POSITIONS[1], *_names(transformer_of(config))}
    if lacking := sorted(wanted - tensors.keys()):
        raise ModelError(f"The transformer lacks the tensor {lacking[0]}; is the download complete?")
    if odd := sorted(tensors.keys() - wanted):
        raise ModelError(f"The transformer has a tensor {odd[0]}, which does not fit its other tensors.")


def _names(transformer: Transformer) -> Iterator[str]:
    """The names of all parameters in diffusers."""
    for layer in ("pos_embed.proj", *(linear.name for linear in transformer.linears())):
        yield from (f"{layer}.weight", f"{layer}.bias")
    for block in range(transformer.layers) if transformer.qk_norm else ():
        norms = ["attn.norm_q", "attn.norm_k", "attn.norm_added_q", "attn.norm_added_k"]
        norms += ["attn2.norm_q", "attn2.norm_k"] if block in transformer.dual_attention_layers else []
        yield from (f"transformer_blocks.{block}.{each}.weight" for each in norms)


def _transformer(shapes: Shapes) -> dict[str, Any]:
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


def _vae(shapes: Shapes) -> dict[str, Any]:
    blocks = 1 + max(int(name.split(".")[2]) for name in shapes if name.startswith("encoder.down_blocks."))
    return {
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": [shapes[f"encoder.down_blocks.{n}.resnets.0.conv1.weight"][0] for n in range(blocks)],
        "down_block_types": ["DownEncoderBlock2D"] * blocks,
        "up_block_types": ["UpDecoderBlock2D"] * blocks,
        "in_channels": shapes["encoder.conv_in.weight"][1],
        "out_channels": shapes["decoder.conv_out.weight"][0],
        "latent_channels": shapes["decoder.conv_in.weight"][1],
        "layers_per_block": resnets_in(shapes),
        "norm_num_groups": 32,
        "sample_size": 1024,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "force_upcast": True,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    }


def _clip(shapes: Shapes, part: str) -> dict[str, Any]:
    vocabulary, width = shapes["text_model.embeddings.token_embedding.weight"]
    return {
        "architectures": ["CLIPTextModelWithProjection"],
        "model_type": "clip_text_model",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shapes[f"{CLIP_LAYERS}0.mlp.fc1.weight"][0],
        "num_hidden_layers": layers_of(shapes, CLIP_LAYERS),
        "num_attention_heads": width // HEAD_WIDTH,
        "projection_dim": shapes["text_projection.weight"][0],
        "max_position_embeddings": shapes["text_model.embeddings.position_embedding.weight"][0],
        "hidden_act": "quick_gelu" if part == "text_encoder" else "gelu",
        "layer_norm_eps": 1e-5,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def _t5(shapes: Shapes) -> dict[str, Any]:
    first = f"{T5_LAYERS}0.layer.0.SelfAttention."
    buckets, heads = shapes[f"{first}relative_attention_bias.weight"]
    vocabulary, width = shapes["shared.weight"]
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "vocab_size": vocabulary,
        "d_model": width,
        "d_kv": shapes[f"{first}q.weight"][0] // heads,
        "d_ff": shapes[f"{T5_LAYERS}0.layer.1.DenseReluDense.wi_0.weight"][0],
        "num_layers": layers_of(shapes, T5_LAYERS),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "is_encoder_decoder": False,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
