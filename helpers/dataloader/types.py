"""What the loop is handed: a position, and the batch that stands there."""

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

    latents [B, C, h, w] as the model wants them, noise [B, C, h, w], sigmas [B] in (0, 1], all fp32;
    prompt_embeds [B, L, D] and pooled [B, P], bf16; paths: the images, `dataset id: path`.
    tokens: of the captions [B, encoders, n], int64, where text encoders learn; prompt_embeds and pooled then hold what
    is cached of the others.
    prior_preservation: learn the base's own prediction in place of the images'.
    position: where it stands; dropout_seed: seeds whatever the forward pass itself draws.
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
