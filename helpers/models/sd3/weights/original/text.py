"""Text encoders in a file in the original layout, whose tensors have transformers' names after a prefix.

All names for a number of layers are known, so that missing or additional tensors are refused before encoding.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch

from helpers.errors import ModelError
from helpers.models.formats.safetensors import LazyTensor

T5 = "text_encoder_3"
PREFIXES = {
    "text_encoder": "text_encoders.clip_l.transformer.",
    "text_encoder_2": "text_encoders.clip_g.transformer.",
    T5: "text_encoders.t5xxl.transformer.",
}
CALLED = {"text_encoder": "CLIP-L", "text_encoder_2": "CLIP-G", T5: "T5"}
SAY_NOTHING = tuple(f"{prefix.removesuffix('transformer.')}logit_scale" for prefix in PREFIXES.values())
"""Unused tensors that ComfyUI writes."""

LOGIT_SCALE = "logit_scale"
POSITIONS = "text_model.embeddings.position_ids"
NORM = "text_model.final_layer_norm.weight"
PROJECTION = "text_projection.weight"
SHARED, ALSO_SHARED = "shared.weight", "encoder.embed_tokens.weight"
CLIP_LAYERS, T5_LAYERS = "text_model.encoder.layers.", "encoder.block."


def layers_of(names: Iterable[str], start: str) -> int:
    """The number of layers, by names that start with `start` and a layer's number."""
    numbers = (name.removeprefix(start).split(".")[0] for name in names if name.startswith(start))
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def encoders_in(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """The text encoders that a file without prefixes may contain; empty if it is not one of SD3's.

    SD3's CLIPs differ only in width: 768 and 1280. A CLIP of another width may be either.
    """
    if any(name.startswith(T5_LAYERS) for name in shapes):
        return (T5,)
    width = shapes.get(NORM, (0,))[0]
    named = {768: ("text_encoder",), 1280: ("text_encoder_2",)}
    return named.get(width, ("text_encoder", "text_encoder_2")) if width else ()


def text_to_diffusers(tensors: Mapping[str, LazyTensor], part: str) -> dict[str, LazyTensor]:
    """An encoder's tensors, from `tensors` without prefix; raises ModelError for missing or additional ones.

    SD3 uses CLIP-L's pooled state without a projection, and its published files omit the projection that the library
    needs: it becomes the identity.
    """
    found = {name: each for name, each in tensors.items() if name not in (POSITIONS, LOGIT_SCALE)}
    if part == T5:
        if ALSO_SHARED in found:
            found.setdefault(SHARED, found.pop(ALSO_SHARED))
            found.pop(ALSO_SHARED, None)
        wanted = set(_t5_names(layers_of(found, T5_LAYERS)))
    else:
        wanted = set(_clip_names(layers_of(found, CLIP_LAYERS)))
        norm = found.get(NORM)
        if part == "text_encoder" and PROJECTION not in found and norm is not None:
            found[PROJECTION] = _identity(norm)
    if lacking := sorted(wanted - found.keys()):
        raise ModelError(f"The {part} lacks the tensor {lacking[0]}; is the download complete?")
    if odd := sorted(found.keys() - wanted):
        raise ModelError(f"The {part} has a tensor {odd[0]}, which is unknown in SD3's.")
    return found


def _identity(norm: LazyTensor) -> LazyTensor:
    """The identity matrix [D, D], for a CLIP whose last norm has the weights `norm` [D]."""
    (width,) = norm.shape
    return LazyTensor(dtype=norm.dtype, shape=(width, width), make=lambda: torch.eye(width, dtype=norm.dtype))


def _clip_names(layers: int) -> Iterator[str]:
    yield from ("text_model.embeddings.token_embedding.weight", "text_model.embeddings.position_embedding.weight")
    attention = (f"self_attn.{each}_proj" for each in ("q", "k", "v", "out"))
    inside = ("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2", *attention)
    norms = ("text_model.final_layer_norm", *(f"{CLIP_LAYERS}{n}.{each}" for n in range(layers) for each in inside))
    yield from (f"{name}.{kind}" for name in norms for kind in ("weight", "bias"))
    yield PROJECTION


def _t5_names(layers: int) -> Iterator[str]:
    yield from (SHARED, "encoder.final_layer_norm.weight")
    yield f"{T5_LAYERS}0.layer.0.SelfAttention.relative_attention_bias.weight"
    attention = (f"layer.0.SelfAttention.{each}" for each in "qkvo")
    mlp = (f"layer.1.DenseReluDense.{each}" for each in ("wi_0", "wi_1", "wo"))
    inside = (*attention, *mlp, "layer.0.layer_norm", "layer.1.layer_norm")
    yield from (f"{T5_LAYERS}{number}.{each}.weight" for number in range(layers) for each in inside)
