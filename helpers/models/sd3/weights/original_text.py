"""The text encoders in a file in the original layout: their tensors' names are the library's own, below a prefix.

Every name that an encoder of so many layers has is known, so that a file that lacks one, or has one more, is refused
before anything is encoded.
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
"""What ComfyUI writes beside each of them, for no use."""

LOGIT_SCALE = "logit_scale"
POSITIONS = "text_model.embeddings.position_ids"
NORM = "text_model.final_layer_norm.weight"
PROJECTION = "text_projection.weight"
SHARED, ALSO_SHARED = "shared.weight", "encoder.embed_tokens.weight"
CLIP_LAYERS, T5_LAYERS = "text_model.encoder.layers.", "encoder.block."


def layers_of(names: Iterable[str], start: str) -> int:
    """How many layers there are, by names that begin with `start` and a layer's number."""
    numbers = (name.removeprefix(start).split(".")[0] for name in names if name.startswith(start))
    return 1 + max((int(number) for number in numbers if number.isdigit()), default=-1)


def encoders_in(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, ...]:
    """Which text encoder the tensors of a file without prefixes are; empty where they are none of SD3's.

    SD3's CLIPs differ in their width alone: 768 and 1280. One of another width may be either.
    """
    if any(name.startswith(T5_LAYERS) for name in shapes):
        return (T5,)
    width = shapes.get(NORM, (0,))[0]
    named = {768: ("text_encoder",), 1280: ("text_encoder_2",)}
    return named.get(width, ("text_encoder", "text_encoder_2")) if width else ()


def text_to_diffusers(tensors: Mapping[str, LazyTensor], part: str) -> dict[str, LazyTensor]:
    """An encoder's tensors, `tensors` without prefix; raises ModelError where one lacks, or is one too many.

    SD3 takes CLIP-L's state as it is, and its published files leave out the projection that the library wants: then it
    is the identity.
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
        raise ModelError(f"The {part} has a tensor {odd[0]}, which none of SD3's has that this program knows.")
    return found


def _identity(norm: LazyTensor) -> LazyTensor:
    """The matrix [D, D] that changes nothing, for a CLIP whose last norm has the weights `norm` [D]."""
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
