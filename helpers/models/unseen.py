"""Keeps diffusers and peft from importing bitsandbytes, as they do wherever it is installed, asked for or not."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

BITSANDBYTES = "bitsandbytes"


@contextmanager
def hide_bitsandbytes() -> Iterator[None]:
    """Within it, bitsandbytes seems not to be installed, unless it is imported already.

    Both ask once, when they are first imported, and would take a second and a half more for layers of its kind.
    """
    if BITSANDBYTES in sys.modules:
        yield
        return
    sys.modules[BITSANDBYTES] = None  # type: ignore[assignment]  # how Python notes what cannot be imported
    try:
        yield
    finally:
        del sys.modules[BITSANDBYTES]
