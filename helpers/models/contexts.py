"""Lends a model that is being trained to whoever only uses it."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(denoiser: nn.Module) -> Iterator[None]:
    """Every module in eval mode, and afterwards each in the mode it was in."""
    training = [module for module in denoiser.modules() if module.training]
    denoiser.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
