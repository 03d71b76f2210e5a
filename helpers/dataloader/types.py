"""A position in the order of samples, and the batch of tensors at it."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """How far a run has come: `batch` batches of epoch `epoch` (both from 0) are done."""

    epoch: int = 0
    batch: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainBatch:
    """One forward pass of one rank.

    latents [B, C, h, w] as the model expects them, noise [B, C, h, w], sigmas [B] in (0, 1], all fp32;
    prompt_embeds [B, L, D] and pooled [B, P], bf16; paths: the images, `dataset id: path`.
    tokens: token ids of the captions [B, encoders, n], int64, if text encoders are trained; prompt_embeds and pooled
    then hold the outputs of the other encoders.
    prior_preservation: train towards the base model's prediction instead of the images.
    dropout_seed: seeds the random numbers of the forward pass itself.
    """

    position: Position
    latents: Tensor
    noise: Tensor
    sigmas: Tensor
    prompt_embeds: Tensor
    pooled: Tensor
    paths: tuple[str, ...]
    dropout_seed: int
    tokens: Tensor | None = None
    prior_preservation: bool = False
