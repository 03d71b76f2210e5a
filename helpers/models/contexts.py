"""Context managers around models and the libraries that load them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

BITSANDBYTES = "bitsandbytes"


@contextmanager
def eval_mode(denoiser: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and restore each one's mode afterwards."""
    training = [module for module in denoiser.modules() if module.training]
    denoiser.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def no_progress_bars() -> Iterator[None]:
    """Transformers shows no progress bar; the program has its own."""
    from transformers.utils import logging

    was_on = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            logging.enable_progress_bar()


@contextmanager
def hide_bitsandbytes() -> Iterator[None]:
    """Make bitsandbytes look not installed, unless it is imported already.

    diffusers and peft import it when they are first imported, if it is there; that takes 1.5 s and prints warnings.
    """
    if BITSANDBYTES in sys.modules:
        yield
        return
    sys.modules[BITSANDBYTES] = None  # type: ignore[assignment]  # Python's mark of a module that cannot be imported
    try:
        yield
    finally:
        del sys.modules[BITSANDBYTES]
