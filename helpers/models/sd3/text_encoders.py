"""SD3's three text encoders, loaded one at a time, with the outputs of diffusers' pipeline."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from helpers.config.options.model import PrecisionOptions, TextOptions
from helpers.models.family import ModelComponents, TextEmbedding, TextEncoderSpec, TokenLimit
from helpers.models.formats.fingerprint import files_fingerprint, fingerprint
from helpers.models.loading import WeightFormat, load_weights
from helpers.models.quantization import UNQUANTIZED, encoder_dtype
from helpers.models.sd3.assets import tokenizer_identity
from helpers.models.sd3.memory.architecture import text_encoder_of
from helpers.models.sd3.weights.component_files import (
    folder_identity,
    is_in_file,
    part_identity,
    part_weights,
    read_config,
)
from helpers.models.sd3.weights.original.text import T5

NAMES = ("clip_l", "clip_g", "t5")
# Increase it whenever the same settings give different embeddings.
ENCODING_VERSION = "1"
BATCH_SIZE = 32


@dataclass(frozen=True, kw_only=True)
class TextEncoderConfig:
    """Everything that a text encoder's outputs depend on, except the caption."""

    name: str
    folder: Path
    tokenizer: Path
    variant: str | None
    level: str
    dtype: torch.dtype
    t5_length: int
    mask_padding: bool
    device: torch.device
    quantize_via: str


def text_parts(
    parts: ModelComponents, options: TextOptions, precision: PrecisionOptions, device: torch.device
) -> tuple[TextEncoderSpec, ...]:
    """CLIP-L, CLIP-G and T5, or zeros in its place; `precision` with its `mixed_precision` resolved for `device`."""
    found = tuple(
        TextEncoderSpec(
            name=wanted.name,
            identity=_identity(wanted),
            earlier_identities=cache(partial(_earlier_identities, wanted)),
            batch_size=BATCH_SIZE,
            bytes_per_caption=_bytes_per_caption(wanted),
            load=partial(_load, wanted),
            limit=None if wanted.name == "clip_g" else _limit(wanted),
            trains=options.train_text_encoder and wanted.name != "t5",
        )
        for wanted in encoders_of(parts, options, precision, device)
    )
    return (*found, _zeros_for_t5(parts, options)) if T5 in parts.absent else found


def encoders_of(
    parts: ModelComponents, options: TextOptions, precision: PrecisionOptions, device: torch.device
) -> tuple[TextEncoderConfig, ...]:
    """See `text_parts`."""
    places = zip(NAMES, parts.text_encoders, parts.tokenizers, strict=False)
    return tuple(
        TextEncoderConfig(
            name=name,
            folder=folder,
            tokenizer=tokenizer,
            variant=parts.weights_variant,
            level=precision.text_encoder_precision(number),
            dtype=encoder_dtype(precision),
            t5_length=options.tokenizer_max_length,
            mask_padding=options.sd3_t5_mask_behaviour == "mask",
            device=device,
            quantize_via=precision.quantize_via,
        )
        for number, (name, folder, tokenizer) in enumerate(places, 1)
    )


def assemble_text(outputs: Sequence[Mapping[str, Tensor]]) -> TextEmbedding:
    """Combine CLIP-L's, CLIP-G's and T5's outputs: prompt_embeds [..., 77 + L, D], pooled [..., P].

    Both CLIPs concatenated on the channels, zero-padded to T5's width D, then T5's positions (Esser et al. 2024,
    section 4 and figure 2a); pooled: both CLIPs' projections concatenated. With T5's outputs only, as the CLIPs are
    trained and added at each step: [..., L, D] and [..., 0].
    """
    *clips, t5 = outputs
    if not clips:
        return TextEmbedding(prompt_embeds=t5["hidden"], pooled=t5["hidden"].new_zeros(0))
    clip = torch.cat([each["hidden"] for each in clips], dim=-1)
    clip = pad(clip, (0, t5["hidden"].shape[-1] - clip.shape[-1]))
    return TextEmbedding(
        prompt_embeds=torch.cat([clip, t5["hidden"]], dim=-2),
        pooled=torch.cat([each["pooled"] for each in clips], dim=-1),
    )


def load_clip(wanted: TextEncoderConfig) -> Any:
    """The model without its tokenizer, frozen, in eval mode, on its device."""
    from transformers import CLIPTextModelWithProjection

    return _load_model(CLIPTextModelWithProjection, wanted)


def clip_outputs(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """A CLIP's outputs for token ids [B, 77], as SD3 uses them: see `ClipEncoder`."""
    output = model(ids, output_hidden_states=True)
    return {"hidden": output.hidden_states[-2], "pooled": output.text_embeds}


class ClipEncoder:
    """A CLIP text encoder: `hidden` [B, 77, D], the input of its last layer, and its projection `pooled` [B, D]."""

    def __init__(self, wanted: TextEncoderConfig) -> None:
        self._tokenizer = load_tokenizer(wanted)
        self._model = load_clip(wanted)
        self._device = wanted.device

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """See `TextEncoder`."""
        assert len(captions) <= BATCH_SIZE
        tokens = _tokens(self._tokenizer, captions, length=self._tokenizer.model_max_length)
        outputs = clip_outputs(self._model, tokens.input_ids.to(self._device))
        return {name: _stored(tensor, len(captions)) for name, tensor in outputs.items()}


class T5Encoder:
    """A T5 encoder: `hidden` [B, L, D] of its last layer; it attends to padding, as in SD3's training."""

    def __init__(self, wanted: TextEncoderConfig) -> None:
        from transformers import T5EncoderModel

        self._tokenizer = load_tokenizer(wanted)
        self._model = _load_model(T5EncoderModel, wanted)
        self._device = wanted.device
        self._length = wanted.t5_length
        self._mask_padding = wanted.mask_padding

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """See `TextEncoder`; with masking, zeros at padding positions."""
        assert len(captions) <= BATCH_SIZE
        tokens = _tokens(self._tokenizer, captions, length=self._length)
        hidden = self._model(tokens.input_ids.to(self._device)).last_hidden_state
        if self._mask_padding:
            hidden = hidden * tokens.attention_mask.to(hidden).unsqueeze(-1)
        return {"hidden": _stored(hidden, len(captions))}


class NoT5:
    """Zeros [B, L, D] instead of T5's outputs, as in diffusers' pipeline without its third text encoder."""

    def __init__(self, *, length: int, width: int) -> None:
        self._zeros = torch.zeros(1, length, width, dtype=torch.bfloat16)

    def encode(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """See `TextEncoder`."""
        return {"hidden": self._zeros.expand(len(captions), -1, -1)}


def _zeros_for_t5(parts: ModelComponents, options: TextOptions) -> TextEncoderSpec:
    length, width = options.tokenizer_max_length, int(read_config(parts.transformer)["joint_attention_dim"])
    return TextEncoderSpec(
        name="no T5",
        identity=fingerprint("no T5", str(length), str(width)),
        batch_size=BATCH_SIZE,
        bytes_per_caption=0,
        load=partial(NoT5, length=length, width=width),
        is_constant=True,
    )


def _load(wanted: TextEncoderConfig) -> ClipEncoder | T5Encoder:
    return T5Encoder(wanted) if wanted.name == "t5" else ClipEncoder(wanted)


def _load_model(model_class: Any, wanted: TextEncoderConfig) -> Any:
    """The frozen model on its device, read block by block, each quantized before the next is read."""
    kind = model_class.config_class
    inside = is_in_file(wanted.folder)
    config = kind.from_dict(read_config(wanted.folder)) if inside else kind.from_pretrained(wanted.folder)
    with torch.device("meta"):
        model = model_class(config)
    for name, buffer in tuple(model.named_buffers()):
        if name.endswith("position_ids"):  # CLIP's, which are not in any file
            owner = model.get_submodule(name.rpartition(".")[0])
            owner.position_ids = torch.arange(buffer.shape[-1], device=wanted.device).expand(buffer.shape)
    form = WeightFormat(
        dtype=wanted.dtype, device=wanted.device, precision=wanted.level, quantize_via=wanted.quantize_via
    )
    return load_weights(model, part_weights(wanted.folder, wanted.variant), form, name=wanted.name)


def _tokens(tokenizer: Any, captions: Sequence[str], *, length: int) -> Any:
    """Ids of a full batch, padded with empty captions: matrix products of another shape may round differently, and a
    caption's embedding must not depend on how many others were missing from the cache."""
    filled = [*captions, *[""] * (BATCH_SIZE - len(captions))]
    return tokenizer(filled, padding="max_length", max_length=length, truncation=True, return_tensors="pt")


def _limit(wanted: TextEncoderConfig) -> TokenLimit:
    """CLIP's length comes from its tokenizer, the same for both CLIPs; T5's is an option."""
    name = "T5" if wanted.name == "t5" else "CLIP"
    identity = tokenizer_identity(wanted.tokenizer)
    return TokenLimit(name=name, tokens=_length(wanted), identity=identity, load=partial(_load_counter, wanted))


def _length(wanted: TextEncoderConfig) -> int:
    if wanted.name == "t5":
        return wanted.t5_length
    return int(read_config(wanted.tokenizer, "tokenizer_config.json")["model_max_length"])


def _load_counter(wanted: TextEncoderConfig) -> Callable[[Sequence[str]], list[int]]:
    tokenizer = load_tokenizer(wanted)
    return lambda captions: [len(ids) for ids in tokenizer(list(captions), verbose=False).input_ids]


def load_tokenizer(wanted: TextEncoderConfig) -> Any:
    """The encoder's tokenizer."""
    from transformers import CLIPTokenizer, T5Tokenizer

    # Built from their vocabulary files instead, transformers 5 silently gives different ids.
    return (T5Tokenizer if wanted.name == "t5" else CLIPTokenizer).from_pretrained(wanted.tokenizer)


def _bytes_per_caption(wanted: TextEncoderConfig) -> int:
    """The size of the outputs in 16 bits: a state for each token, and CLIP's projection."""
    shape = text_encoder_of(read_config(wanted.folder))
    return 2 * (_length(wanted) * shape.width + shape.projection)


def _stored(tensor: Tensor, count: int) -> Tensor:
    return tensor[:count].to(device="cpu", dtype=torch.bfloat16)


def _identity(wanted: TextEncoderConfig) -> str:
    component = part_identity(wanted.folder, wanted.variant)
    return _identity_of(wanted, component=component, tokenizer=tokenizer_identity(wanted.tokenizer))


def _earlier_identities(wanted: TextEncoderConfig) -> tuple[str, ...]:
    if is_in_file(wanted.folder):
        return ()
    component = folder_identity(wanted.folder, wanted.variant)
    tokenizer = files_fingerprint(file for file in wanted.tokenizer.iterdir() if file.is_file())
    return (_identity_of(wanted, component=component, tokenizer=tokenizer),)


def _identity_of(wanted: TextEncoderConfig, *, component: str, tokenizer: str) -> str:
    reading = f"length {wanted.t5_length}, mask {wanted.mask_padding}" if wanted.name == "t5" else ""
    # An accelerator may round the scales differently.
    on_accelerator = wanted.quantize_via == "accelerator" and wanted.device.type != "cpu"
    return fingerprint(
        ENCODING_VERSION,
        wanted.name,
        component,
        tokenizer,
        wanted.level,
        str(wanted.dtype),
        reading,
        # The spelling is part of the key of existing caches.
        *((f"quantised on {wanted.device.type}",) if on_accelerator and wanted.level != UNQUANTIZED else ()),
    )
