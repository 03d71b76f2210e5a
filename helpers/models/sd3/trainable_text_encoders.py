"""CLIP-L and CLIP-G trained together with the transformer; T5's outputs come from the cache."""

from collections.abc import Sequence
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from helpers.config.options.model import PrecisionOptions, TextOptions
from helpers.models.adapters.lora import linear_modules
from helpers.models.family import ModelComponents, TextEmbedding
from helpers.models.sd3.text_encoders import (
    TextEncoderConfig,
    assemble_text,
    clip_outputs,
    encoders_of,
    load_clip,
    load_tokenizer,
)
from helpers.models.sd3.weights.components import TEXT_ENCODERS
from helpers.models.sd3.weights.original.text import T5

CLIPS = tuple(name for name in TEXT_ENCODERS if name != T5)
ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def learning_text(
    parts: ModelComponents, options: TextOptions, precision: PrecisionOptions, device: torch.device
) -> "LearningClips":
    """Both CLIPs, frozen and in eval mode, loaded as for caching."""
    return LearningClips(encoders_of(parts, options, precision, device)[: len(CLIPS)])


class LearningClips:
    """See `TrainableTextEncoders`."""

    def __init__(self, wanted: Sequence[TextEncoderConfig]) -> None:
        self.module: nn.Module = nn.ModuleDict(
            {name: load_clip(each) for name, each in zip(CLIPS, wanted, strict=True)}
        )
        self._tokenizers = [load_tokenizer(each) for each in wanted]
        self._lock = Lock()  # tokenizers are not thread-safe

    def tokens(self, caption: str) -> Tensor:
        """See `TrainableTextEncoders`; longer captions are truncated."""
        with self._lock:
            rows = [
                each([caption], padding="max_length", truncation=True, return_tensors="pt").input_ids
                for each in self._tokenizers
            ]
        return torch.cat(rows)

    def embeddings(self, tokens: Tensor, cached: Tensor) -> TextEmbedding:
        """See `TrainableTextEncoders`."""
        return _embeddings(self.module, tokens, cached)

    def lora_modules(self, encoder: nn.Module) -> list[str]:
        """The four projections of each attention layer."""
        return [name for name in linear_modules(encoder) if name.rpartition(".")[2] in ATTENTION]

    def wrap(self, denoiser: nn.Module) -> nn.Module:
        """See `TrainableTextEncoders`; called like the transformer, plus `tokens`."""
        return _WithClips(denoiser, self.module)

    def enable_checkpointing(self) -> None:
        """See `TrainableTextEncoders`."""
        clips: list[Any] = list(self.module.children())
        for clip in clips:
            clip.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


class _WithClips(nn.Module):
    """Encodes captions and predicts in one forward pass, so that distributed wrappers see all gradients."""

    def __init__(self, denoiser: nn.Module, clips: nn.Module) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.clips = clips

    def forward(
        self, *, encoder_hidden_states: Tensor, pooled_projections: Tensor, tokens: Tensor, **more: Any
    ) -> tuple[Tensor]:
        """The transformer's arguments, with only T5's text embeddings [B, L, D], and tokens [B, 2, 77]."""
        text = _embeddings(self.clips, tokens, encoder_hidden_states)
        like = encoder_hidden_states.dtype
        return self.denoiser(
            encoder_hidden_states=text.prompt_embeds.to(like), pooled_projections=text.pooled.to(like), **more
        )


def _embeddings(clips: nn.Module, tokens: Tensor, cached: Tensor) -> TextEmbedding:
    """Without autocast, as in caching, so that training and validation get the same embeddings."""
    with torch.autocast(tokens.device.type, enabled=False):
        outputs = [clip_outputs(clip, ids) for clip, ids in zip(clips.children(), tokens.unbind(1), strict=True)]
    return assemble_text([*outputs, {"hidden": cached}])
