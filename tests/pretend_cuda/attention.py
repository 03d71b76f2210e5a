"""Attention as PyTorch chooses it on CUDA, by the operators whose meta kernels say what each of them keeps."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

HALF = (torch.bfloat16, torch.float16)
FLASH_HEAD_WIDTH = 256
"""The widest heads that flash attention has; the VAE's are wider."""


def attention_of_cuda(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """`scaled_dot_product_attention` [B, heads, tokens, d]: flash attention, or the memory-efficient one where flash
    cannot: in fp32, with a mask, or with wide heads."""
    if torch.is_autocast_enabled("cuda"):
        query, key, value = (each.to(torch.get_autocast_dtype("cuda")) for each in (query, key, value))
    ops: Any = torch.ops.aten
    if attn_mask is None and query.dtype in HALF and query.shape[-1] <= FLASH_HEAD_WIDTH:
        flash = ops._scaled_dot_product_flash_attention
        return flash(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    keeps = torch.is_grad_enabled() and any(each.requires_grad for each in (query, key, value))
    efficient = ops._scaled_dot_product_efficient_attention
    return efficient(query, key, value, attn_mask, keeps, dropout_p, is_causal, scale=scale)[0]


def use_attention_of_cuda() -> None:
    """Within this process, from now on."""
    functional.scaled_dot_product_attention = attention_of_cuda
