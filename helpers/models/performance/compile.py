"""Compiles a denoiser block by block, so that similar blocks and all image sizes share compiled code."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = 1
"""The dimension of a block's first input that differs between buckets: [B, tokens, C]."""


def compile_blocks(blocks: Sequence[nn.Module], *, backend: str) -> None:
    """Replace each block's forward pass by a compiled one, in place; names, hooks and weights do not change.

    The number of tokens is dynamic in the compiled code and all other sizes are constants, so there is one compilation
    for each kind of block, for any buckets: see `kinds` in documentation/PERFORMANCE.md. Only forward passes with
    gradients are compiled, because validation uses other sizes.
    """
    import torch._dynamo.config as dynamo

    # Beyond its limit Dynamo silently stops compiling; each block may have a different adapter.
    dynamo.recompile_limit = max(dynamo.recompile_limit, 2 * len(blocks))
    for block in blocks:
        block.forward = _compiled(block.forward, backend=backend)


def _compiled(forward: Callable[..., Any], *, backend: str) -> Callable[..., Any]:
    # Inductor may time several kernels, which round differently, and choose the fastest: a resumed run would differ.
    options: dict[str, Any] | None = {"deterministic": True} if backend == "inductor" else None
    quick = torch.compile(forward, dynamic=False, backend=backend, options=options)

    def compiled(hidden_states: Tensor, *others: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(hidden_states, *others, **named)
        torch._dynamo.maybe_mark_dynamic(hidden_states, TOKENS)
        return quick(hidden_states, *others, **named)

    return compiled
