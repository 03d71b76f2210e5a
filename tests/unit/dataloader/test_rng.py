"""Random numbers are named, not remembered."""

import numpy as np
import torch

from helpers.dataloader.rng import generator, permutation, seeded_int, seeded_uniform


def test_numbers_are_the_same_in_every_process_and_differ_by_every_argument() -> None:
    assert seeded_int(42, "noise", 3, "set: pictüre.png") == 11_914_567_631_254_889_698
    alike = [
        (42, "noise", 3),
        (43, "noise", 3),
        (42, "sigma", 3),
        (42, "noise", 4),
        (42, "noise", 3, 0),
        (42, "noise", "3"),
    ]
    assert len({seeded_int(seed, purpose, *parts) for seed, purpose, *parts in alike}) == len(alike)


def test_generators_give_the_same_tensors_again_and_touch_no_other() -> None:
    before = torch.get_rng_state()
    first, second = (torch.randn(16, 4, 4, generator=generator(1, "noise", 5, 2)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, torch.randn(16, 4, 4, generator=generator(1, "noise", 5, 3)))
    assert torch.equal(before, torch.get_rng_state())


def test_chances_are_uniform() -> None:
    draws = np.array([seeded_uniform(0, "drop", sample) for sample in range(4000)])
    assert draws.min() >= 0 and draws.max() < 1
    for share in (0.1, 0.5, 0.9):
        assert abs((draws < share).mean() - share) < 0.03


def test_permutations_hold_each_number_once_and_every_place_is_as_likely() -> None:
    draws = np.stack([permutation(5, seed=draw, purpose="order", parts=()) for draw in range(2000)])
    assert (np.sort(draws, axis=1) == np.arange(5)).all()
    for place in range(5):
        shares = np.bincount(draws[:, place], minlength=5) / len(draws)
        assert np.abs(shares - 0.2).max() < 0.04
