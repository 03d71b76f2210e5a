"""The LoRA formats that are supported, and the SD3 layers that their names mean.

A new form is one entry in `FORMS`. In every form, layers have the names of diffusers or of the original layout, with
dots or underscores.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from helpers.errors import ModelError
from helpers.models.formats.lora import EXPORT_PREFIX, Pair
from helpers.models.formats.lora_file import LayerName, LoraForm, is_lora, layer_name, part_of, read_pairs
from helpers.models.formats.safetensors import opened
from helpers.models.sd3.facts import ORIGINAL
from helpers.models.sd3.weights.comfyui_lora import MOST_BLOCKS, split_pair
from helpers.models.sd3.weights.original.keys import Layer, layers
from helpers.models.sd3.weights.other_files import model_of_lora, what_it_is

CLIP_L, CLIP_G, T5 = "text_encoder.", "text_encoder_2.", "text_encoder_3."
FORMS = (
    LoraForm(
        name="diffusers",
        starts={EXPORT_PREFIX: EXPORT_PREFIX, CLIP_L: CLIP_L, CLIP_G: CLIP_G, T5: T5},
    ),
    LoraForm(
        name="kohya's sd-scripts and ComfyUI",
        starts={"lora_unet_": EXPORT_PREFIX, "lora_te1_": CLIP_L, "lora_te2_": CLIP_G, "lora_te3_": T5},
    ),
    LoraForm(name="OneTrainer, legacy", starts={"lora_transformer_": EXPORT_PREFIX}),
    LoraForm(
        name="ComfyUI, SimpleTuner 4 and OneTrainer",
        starts={
            "diffusion_model.": EXPORT_PREFIX,
            "text_encoders.clip_l.transformer.": CLIP_L,
            "text_encoders.clip_g.transformer.": CLIP_G,
            "text_encoders.t5xxl.transformer.": T5,
        },
    ),
    LoraForm(
        name="peft",
        starts={"base_model.model.": EXPORT_PREFIX, f"base_model.model.{EXPORT_PREFIX}": EXPORT_PREFIX},
    ),
    LoraForm(name="OneTrainer, OMI", starts={"clip_l.": CLIP_L, "clip_g.": CLIP_G, "t5.": T5}),
    LoraForm(name="LyCORIS", starts={"lycoris_": EXPORT_PREFIX}),
    LoraForm(name="names without a prefix", starts={"": EXPORT_PREFIX}),
)
"""Each program's prefixes; in OneTrainer's OMI files, `transformer.` precedes the original layout's names."""

TEXT_LAYER = re.compile(r"text_model[._]encoder[._]layers[._](\d+)[._](self_attn|mlp)[._](\w+)")
TEXT_PROJECTION = "text_projection"


def read_lora(path: Path) -> dict[str, Pair]:
    """The LoRA in a file of any known form, by diffusers' layers; text encoder layers start with the encoder's name.

    Raises ModelError for any other file, with a description of the file.
    """
    with opened(path) as file:
        names, header = list(file.keys()), file.metadata() or {}
    if not is_lora(names):
        raise ModelError(f"{path} holds no LoRA: it is {what_it_is(names)}.")
    for name in names:
        _refuse_unknown(path, name, names=names, header=header)
    found: dict[str, Pair] = {}
    for name, pair in read_pairs(path, FORMS, original=ORIGINAL):
        layer = _layer(name)
        assert layer is not None, "names were checked above"
        try:
            pieces = split_pair(layer, pair)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        if twice := sorted(pieces.keys() & found.keys()):
            raise ModelError(f"{path} contains two LoRAs on {twice[0]}, under different names.")
        found |= pieces
    return found


def _refuse_unknown(path: Path, name: str, *, names: list[str], header: Mapping[str, str]) -> None:
    """Raise ModelError for a tensor that is not part of a LoRA on a trainable or mergeable layer of SD3."""
    part = part_of(name)
    known = layer_name(part[0], FORMS) if part else None
    if known is not None and known.component == T5:
        raise ModelError(
            f"{path} holds a LoRA on T5 ({name}), which is not supported for training or merging: use one that "
            "was trained without T5."
        )
    if known is not None and _layer(known) is not None:
        return
    if model := model_of_lora(names, header):
        raise ModelError(f"{path} is a LoRA for {model}, but this program trains only SD3 and SD3.5: it holds {name}.")
    if part is None:
        raise ModelError(f"{path} holds {name}, which is not part of any supported LoRA: it is {what_it_is([name])}.")
    raise ModelError(f"{path} holds a LoRA on {part[0]}, which SD3 does not have: it was trained on another model.")


def _layer(name: LayerName) -> Layer | None:
    """The layer of a name: one of diffusers', or one of the original with diffusers' layers in it; None if unknown."""
    if name.component == EXPORT_PREFIX:
        return _layers_by_name().get(name.layer)
    found = TEXT_LAYER.fullmatch(name.layer)
    if found is None:
        return _of_diffusers(name.component + TEXT_PROJECTION) if name.layer == TEXT_PROJECTION else None
    return _of_diffusers(f"{name.component}text_model.encoder.layers.{found[1]}.{found[2]}.{found[3]}")


def _of_diffusers(layer: str) -> Layer:
    return Layer(original="", diffusers=(layer,))


@cache
def _layers_by_name() -> dict[str, Layer]:
    """The transformer's layers by all of their known names."""
    found: dict[str, Layer] = {}
    for layer in layers(count=MOST_BLOCKS):
        found[layer.original] = layer
        for place, name in enumerate(layer.diffusers):
            found[name] = _of_diffusers(name)
            if len(layer.diffusers) > 1:
                found[f"{layer.original}.{place}"] = _of_diffusers(name)
    return {spelled: layer for name, layer in found.items() for spelled in (name, name.replace(".", "_"))}
