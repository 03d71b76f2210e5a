"""LoRAs as other programs write them: the same pairs by each one's names, made from what is known of their files."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers.models.formats.lora import Pair, of_text_encoder, of_transformer, write_diffusers_lora
from helpers.models.sd3.weights.comfyui_lora import write_comfyui_lora
from helpers.models.sd3.weights.original.keys import Layer, layers, with_halves_swapped

Write = Callable[[Path, Mapping[str, Pair]], Path]
CLIPS = ("text_encoder.", "text_encoder_2.")


def onetrainer_legacy(path: Path, pairs: Mapping[str, Pair]) -> Path:
    """Diffusers' layers with underscores; a DoRA's lengths are [outputs, 1]."""
    starts = {"lora_transformer_": of_transformer(pairs)}
    starts |= {f"lora_te{number}_": of_text_encoder(pairs, clip) for number, clip in enumerate(CLIPS, 1)}
    tensors: dict[str, Tensor] = {}
    for start, mine in starts.items():
        for name, pair in mine.items():
            tensors |= _kohya_s(start + name.replace(".", "_"), pair)
    save_file(tensors, path)
    return path


def onetrainer_comfyui(path: Path, pairs: Mapping[str, Pair]) -> Path:
    """The original's layers with dots, queries, keys and values side by side."""
    tensors = {}
    for layer in layers(count=64):
        pieces = [pairs[name] for name in layer.diffusers if name in pairs]
        if len(pieces) == len(layer.diffusers):
            tensors |= _peft_s(f"diffusion_model.{layer.original}", _side_by_side(layer, pieces))
    for name, clip in zip(("clip_l", "clip_g"), CLIPS, strict=True):
        for layer_name, pair in of_text_encoder(pairs, clip).items():
            tensors |= _peft_s(f"text_encoders.{name}.transformer.{layer_name}", pair)
    save_file(tensors, path)
    return path


def onetrainer_original(path: Path, pairs: Mapping[str, Pair]) -> Path:
    """The same without any prefix, and without text encoders."""
    onetrainer_comfyui(path, of_transformer(pairs))
    from safetensors.torch import load_file

    save_file({name.removeprefix("diffusion_model."): each.clone() for name, each in load_file(path).items()}, path)
    return path


def onetrainer_omi(path: Path, pairs: Mapping[str, Pair]) -> Path:
    """The original's layers, of which queries, keys and values are numbered."""
    tensors: dict[str, Tensor] = {}
    for layer in layers(count=64):
        for place, name in enumerate(layer.diffusers):
            if name in pairs:
                whole = f"transformer.{layer.original}" + (f".{place}" if len(layer.diffusers) > 1 else "")
                tensors |= _kohya_s(whole, _turned(layer, pairs[name]))
    for start, clip in zip(("clip_l.", "clip_g."), CLIPS, strict=True):
        for name, pair in of_text_encoder(pairs, clip).items():
            tensors |= _kohya_s(start + name, pair)
    save_file(tensors, path)
    return path


def onetrainer_diffusers(path: Path, pairs: Mapping[str, Pair]) -> Path:
    """Diffusers' names, alpha multiplied in, and a DoRA's magnitudes with `.weight`."""
    tensors: dict[str, Tensor] = {}
    for name, pair in pairs.items():
        whole, plain = name if name.startswith(CLIPS) else f"transformer.{name}", pair.multiplied()
        tensors |= {f"{whole}.lora_A.weight": plain.down, f"{whole}.lora_B.weight": plain.up}
        if pair.magnitude is not None:
            tensors[f"{whole}.lora_magnitude_vector.weight"] = pair.magnitude
    save_file(tensors, path)
    return path


def simpletuner_4(path: Path, pairs: Mapping[str, Pair]) -> Path:
    """Diffusers' layers of the transformer, below ComfyUI's prefix."""
    tensors: dict[str, Tensor] = {}
    for name, pair in of_transformer(pairs).items():
        tensors |= _peft_s(f"diffusion_model.{name}", pair)
    save_file(tensors, path)
    return path


def peft(path: Path, pairs: Mapping[str, Pair]) -> Path:
    """As `save_pretrained` of peft: alpha is in the file beside it, by the end of layers' names."""
    path = path.with_name("adapter_model.safetensors")
    tensors, mine = {}, of_transformer(pairs)
    for name, pair in mine.items():
        start = f"base_model.model.{name}"
        tensors |= {f"{start}.lora_A.weight": pair.down, f"{start}.lora_B.weight": pair.up}
        if pair.magnitude is not None:
            tensors[f"{start}.lora_magnitude_vector"] = pair.magnitude
    save_file(tensors, path)
    config = {"r": 1, "lora_alpha": 99, "alpha_pattern": {name: pair.alpha for name, pair in mine.items()}}
    path.with_name("adapter_config.json").write_text(json.dumps(config))
    return path


def peft_in_memory(path: Path, pairs: Mapping[str, Pair]) -> Path:
    """With the adapter's name in each, as a state dict of peft's has them."""
    tensors: dict[str, Tensor] = {}
    for name, pair in of_transformer(pairs).items():
        start, plain = f"base_model.model.transformer.{name}", pair.multiplied()
        tensors |= {f"{start}.lora_A.default.weight": plain.down, f"{start}.lora_B.default.weight": plain.up}
        if pair.magnitude is not None:
            tensors[f"{start}.lora_magnitude_vector.default.weight"] = pair.magnitude
    save_file(tensors, path)
    return path


def lycoris(path: Path, pairs: Mapping[str, Pair]) -> Path:
    """LoCon."""
    tensors: dict[str, Tensor] = {}
    for name, pair in of_transformer(pairs).items():
        tensors |= _kohya_s(f"lycoris_{name.replace('.', '_')}", pair)
    save_file(tensors, path)
    return path


def diffusers(path: Path, pairs: Mapping[str, Pair]) -> Path:
    """This program's own."""
    write_diffusers_lora(path, pairs, metadata={})
    return path


def comfyui(path: Path, pairs: Mapping[str, Pair]) -> Path:
    """Kohya's, and this program's own for ComfyUI; no DoRA."""
    write_comfyui_lora(path, pairs, base={}, metadata={})
    return path


FORMS: Mapping[str, Write] = {
    "diffusers": diffusers,
    "kohya and ComfyUI": comfyui,
    "OneTrainer, legacy": onetrainer_legacy,
    "OneTrainer, ComfyUI": onetrainer_comfyui,
    "OneTrainer, original": onetrainer_original,
    "OneTrainer, OMI": onetrainer_omi,
    "OneTrainer, diffusers": onetrainer_diffusers,
    "SimpleTuner 4": simpletuner_4,
    "peft": peft,
    "peft, in memory": peft_in_memory,
    "LyCORIS": lycoris,
}
WITHOUT_TEXT = ("OneTrainer, original", "SimpleTuner 4", "peft", "peft, in memory", "LyCORIS")
WITHOUT_DORA = ("kohya and ComfyUI",)


def _kohya_s(start: str, pair: Pair) -> dict[str, Tensor]:
    found = {f"{start}.lora_down.weight": pair.down.clone(), f"{start}.lora_up.weight": pair.up.contiguous().clone()}
    return found | _alpha_and_scale(start, pair)


def _peft_s(start: str, pair: Pair) -> dict[str, Tensor]:
    found = {f"{start}.lora_A.weight": pair.down, f"{start}.lora_B.weight": pair.up.contiguous()}
    return found | _alpha_and_scale(start, pair)


def _alpha_and_scale(start: str, pair: Pair) -> dict[str, Tensor]:
    scale = {} if pair.magnitude is None else {f"{start}.dora_scale": pair.magnitude.unsqueeze(1).contiguous()}
    return {f"{start}.alpha": torch.tensor(float(pair.alpha)), **scale}


def _turned(layer: Layer, pair: Pair) -> Pair:
    """With the two halves as the original has them: of a small SD3 of three blocks."""
    if not (layer.original.startswith("final_layer.ada") or layer.original == LAST):
        return pair
    magnitude = None if pair.magnitude is None else with_halves_swapped(pair.magnitude)
    return Pair(down=pair.down, up=with_halves_swapped(pair.up), alpha=pair.alpha, magnitude=magnitude)


LAST = "joint_blocks.2.context_block.adaLN_modulation.1"


def _side_by_side(layer: Layer, pieces: list[Pair]) -> Pair:
    if len(pieces) == 1:
        return _turned(layer, pieces[0])
    magnitudes = [piece.magnitude for piece in pieces if piece.magnitude is not None]
    return Pair(
        down=torch.cat([piece.down for piece in pieces]),
        up=torch.block_diag(*(piece.up for piece in pieces)),
        alpha=sum(piece.alpha for piece in pieces),
        magnitude=torch.cat(magnitudes) if magnitudes else None,
    )
