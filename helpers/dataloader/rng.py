"""Random numbers that depend on what they are for and on nothing that happened before.

Every random choice of a run names the run's seed, its purpose and the sample it is made for, so no random state is
saved with a checkpoint and none can be lost: a resumed run, another number of workers or a warm cache change nothing.
"""

import hashlib

import numpy as np
import torch


def seeded_int(seed: int, purpose: str, *parts: int | str) -> int:
    """A whole number in [0, 2⁶⁴) that is always the same for the same arguments, on every machine."""
    text = ascii((seed, purpose, *parts)).encode("ascii")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def generator(seed: int, purpose: str, *parts: int | str) -> torch.Generator:
    """A new generator on the CPU, seeded by `number`."""
    return torch.Generator().manual_seed(seeded_int(seed, purpose, *parts))


def seeded_uniform(seed: int, purpose: str, *parts: int | str) -> float:
    """One uniform draw in [0, 1)."""
    return (seeded_int(seed, purpose, *parts) >> 11) / 2**53


def permutation(length: int, *, seed: int, purpose: str, parts: tuple[int | str, ...]) -> np.ndarray:
    """The numbers 0 to `length` - 1 in random order, int32.

    Sorted from raw bits, which numpy promises never to change, unlike what its `permutation` makes of them.
    """
    bits = np.random.Philox(key=seeded_int(seed, purpose, *parts)).random_raw(length)
    return np.argsort(bits, kind="stable").astype(np.int32)
