"""Checks by their configs that components from several places fit together, and identifies the SD3 variant."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from helpers.errors import ModelError
from helpers.models.sd3.assets import CLIP_TOKENS, CLIP_VOCABULARY, T5_VOCABULARY, TOKENIZERS
from helpers.models.sd3.weights.component_files import read_config
from helpers.models.sd3.weights.original.file import TRANSFORMER, VAE
from helpers.models.sd3.weights.original.text import T5

CLIP_L, CLIP_G = "text_encoder", "text_encoder_2"


def check_parts_fit(places: Mapping[str, Path], *, served: Sequence[str]) -> None:
    """Raise ModelError for a component of a different model, which would fail or give wrong results much later.

    served: this program's own tokenizers in use, for encoders with SD3's vocabularies.
    """
    configs = {part: read_config(place) for part, place in places.items()}
    transformer, vae, clip_l, clip_g = (configs[part] for part in (TRANSFORMER, VAE, CLIP_L, CLIP_G))
    if vae.get("latent_channels") != transformer.get("in_channels"):
        raise ModelError(
            f"The VAE in {places[VAE]} makes {vae.get('latent_channels')} latent channels, but the transformer takes "
            f"{transformer.get('in_channels')}; it belongs to a different model."
        )
    if T5 in configs and configs[T5].get("d_model") != transformer.get("joint_attention_dim"):
        raise ModelError(
            f"The text encoder in {places[T5]} is {configs[T5].get('d_model')} wide, but the transformer takes "
            f"{transformer.get('joint_attention_dim')}; SD3's third text encoder is the encoder of T5 v1.1 XXL."
        )
    widths = [config.get("projection_dim", 0) for config in (clip_l, clip_g)]
    if sum(widths) != transformer.get("pooled_projection_dim") or widths[0] > widths[1]:
        raise ModelError(
            f"CLIP-L in {places[CLIP_L]} and CLIP-G in {places[CLIP_G]} are {widths[0]} and {widths[1]} wide, but the "
            f"transformer takes {transformer.get('pooled_projection_dim')} from both together, with CLIP-G the "
            "wider one; check that they are SD3's and not swapped."
        )
    for part, tokenizer in zip((CLIP_L, CLIP_G, T5), TOKENIZERS, strict=True):
        if tokenizer in served and part in configs:
            _check_vocabulary(configs[part], place=places[part], is_t5=part == T5)


def _check_vocabulary(config: Mapping[str, Any], *, place: Path, is_t5: bool) -> None:
    words, tokens = config.get("vocab_size", 0), config.get("max_position_embeddings", CLIP_TOKENS)
    fits = T5_VOCABULARY <= words <= T5_VOCABULARY + 100 if is_t5 else (words, tokens) == (CLIP_VOCABULARY, CLIP_TOKENS)
    if not fits:
        raise ModelError(
            f"The text encoder in {place} has {words:,} words and does not fit SD3's tokenizers: name a folder "
            "in diffusers layout with its own tokenizer."
        )


def longest_edge_px(transformer: Mapping[str, Any], *, vae: Mapping[str, Any]) -> int:
    """The longest image edge, in pixels, that the transformer's table of positions covers."""
    downscale = 2 ** (len(vae["block_out_channels"]) - 1)
    return int(transformer["pos_embed_max_size"]) * int(transformer["patch_size"]) * downscale


def variant_of(config: Mapping[str, Any]) -> str:
    """The SD3 variant by its shape, never by a name, which a user may have changed."""
    layers = config.get("num_layers")
    if config.get("dual_attention_layers"):
        return "SD3.5 medium" if layers == 24 else f"SD3.5 of {layers} layers"
    if config.get("qk_norm"):
        return "SD3.5 large" if layers == 38 else f"SD3.5 of {layers} layers"
    return "SD3 medium" if layers == 24 else f"SD3 of {layers} layers"
