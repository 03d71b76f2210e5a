"""The embedded pipeline's parts other than its VAE, and how they come together, shared by training and assembly."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

WIDTH, LAYERS, HEADS, TEXT_LAYERS = 192, 5, 3, 2
CLIP_L, CLIP_G, T5 = 64, 64, 160
SAMPLE_SIZE, POSITIONS, SHIFT = 8, 24, 2.0


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What turns captions and noisy latents into a velocity; `clips` and `clip_tokenizers` in the pipeline's order."""

    clip_tokenizers: tuple[Any, Any]
    t5_tokenizer: Any
    clips: tuple[Any, Any]
    t5: Any
    transformer: Any

    @property
    def models(self) -> tuple[nn.Module, ...]:
        """All that is trained together, in the order in which a training state holds them."""
        return (*self.clips, self.t5, self.transformer)

    def embed(self, captions: Sequence[str], *, t5_length: int) -> tuple[Tensor, Tensor]:
        """Embeddings [B, L, D] and pooled [B, P] exactly as StableDiffusion3Pipeline makes them, T5 unmasked."""
        hidden, pooled = [], []
        for tokenizer, clip in zip(self.clip_tokenizers, self.clips, strict=True):
            ids = tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids
            output = clip(ids, output_hidden_states=True)
            hidden.append(output.hidden_states[-2])
            pooled.append(output[0])
        ids = self.t5_tokenizer(
            captions, padding="max_length", max_length=t5_length, truncation=True, return_tensors="pt"
        )
        states = self.t5(ids.input_ids)[0]
        joined = torch.cat(hidden, -1)
        joined = nn.functional.pad(joined, (0, states.shape[-1] - joined.shape[-1]))
        return torch.cat([joined, states.to(joined.dtype)], 1), torch.cat(pooled, -1)


def _clip(width: int, tokenizer: Any) -> CLIPTextModelWithProjection:
    configuration = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=4 * width, projection_dim=width,
        num_hidden_layers=TEXT_LAYERS, num_attention_heads=width // 32, hidden_act="gelu",
        max_position_embeddings=tokenizer.model_max_length, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return CLIPTextModelWithProjection(configuration)


def _t5(tokenizer: Any) -> T5EncoderModel:
    configuration = T5Config(
        vocab_size=len(tokenizer), d_model=T5, d_kv=32, d_ff=2 * T5, num_layers=TEXT_LAYERS, num_heads=T5 // 32,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    return T5EncoderModel(configuration)


def _transformer() -> SD3Transformer2DModel:
    transformer = SD3Transformer2DModel(
        sample_size=SAMPLE_SIZE, patch_size=2, in_channels=16, out_channels=16, num_layers=LAYERS,
        num_attention_heads=HEADS, attention_head_dim=WIDTH // HEADS, joint_attention_dim=T5,
        caption_projection_dim=WIDTH, pooled_projection_dim=CLIP_L + CLIP_G, pos_embed_max_size=POSITIONS,
        qk_norm="rms_norm",
    )  # fmt: skip
    # Each block starts as the identity and the whole predicts nothing (Peebles and Xie 2023, "adaLN-Zero").
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and (name == "proj_out" or ".norm1" in name or name.startswith("norm_out")):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


def fresh_parts(pipeline: Path) -> Parts:
    """Untrained parts that fit the tokenizers in a pipeline's folder."""
    first, second = (CLIPTokenizer.from_pretrained(pipeline / name) for name in ("tokenizer", "tokenizer_2"))
    t5_tokenizer = T5Tokenizer.from_pretrained(pipeline / "tokenizer_3")
    return Parts(
        clip_tokenizers=(first, second),
        t5_tokenizer=t5_tokenizer,
        clips=(_clip(CLIP_L, first), _clip(CLIP_G, second)),
        t5=_t5(t5_tokenizer),
        transformer=_transformer(),
    )
