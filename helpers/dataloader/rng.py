"""Random numbers that depend on their purpose, and not on what was computed before.

Every random choice is seeded with the run's seed, its purpose and its sample. So a checkpoint needs no random state,
and a resumed run, another number of workers or a full cache changes nothing.
"""

import hashlib

import numpy as np
import torch


def seeded_int(seed: int, purpose: str, *parts: int | str) -> int:
    """An integer in [0, 2⁶⁴), the same for the same arguments on every machine."""
    text = ascii((seed, purpose, *parts)).encode("ascii")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def generator(seed: int, purpose: str, *parts: int | str) -> torch.Generator:
    """A new generator on the CPU, seeded with the arguments."""
    return torch.Generator().manual_seed(seeded_int(seed, purpose, *parts))


def seeded_uniform(seed: int, purpose: str, *parts: int | str) -> float:
    """A uniform number in [0, 1)."""
    return (seeded_int(seed, purpose, *parts) >> 11) / 2**53


def permutation(length: int, *, seed: int, purpose: str, parts: tuple[int | str, ...]) -> np.ndarray:
    """The numbers 0 to `length` - 1 in random order, int32.

    By sorting raw bits, which numpy guarantees to stay the same between versions; its own `permutation` may change.
    """
    bits = np.random.Philox(key=seeded_int(seed, purpose, *parts)).random_raw(length)
    return np.argsort(bits, kind="stable").astype(np.int32)
