"""The validation loss is the one of images kept back, at four noise levels, and says where it has risen for good."""

from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers.models.family import TextEmbedding
from helpers.reporting.reporter import Reporter
from helpers.training.plan import Interval
from helpers.training.signals import StopSignal
from helpers.training.validation.loss import LossValidator, detect_overfitting
from helpers.training.validation.split import held_out_mask
from tests.unit.cache.encoders import catalog_of, image
from tests.unit.training.small_run import Events, SmallDenoiser, small_learner


class Latents:
    """The latents of an image: its number everywhere."""

    def latents(self, index: int) -> Tensor:
        return torch.full((16, 4, 4), float(index))


class Words:
    """Every caption is the same."""

    def embedding(self, caption: str) -> TextEmbedding:
        return TextEmbedding(prompt_embeds=torch.zeros(1, 1), pooled=torch.zeros(1))


def predict_sigma(
    denoiser: nn.Module, noisy: Tensor, sigmas: Tensor, prompts: Tensor, pooled: Tensor, tokens: Tensor | None = None
) -> Tensor:
    return sigmas.view(-1, 1, 1, 1).expand_as(noisy)


def number(*parts: int | str) -> int:
    """How each random choice of a run is seeded."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def test_each_image_is_measured_with_its_own_noise_in_the_middle_of_each_range(tmp_path: Path) -> None:
    """The same noise in every run and every version, as losses in a folder's log are compared with each other."""
    for name in ("a.png", "b.png", "c.png"):
        image(tmp_path / "images" / name)
    denoiser, events = SmallDenoiser(), Events()
    step_context = replace(small_learner(denoiser), predict=predict_sigma)
    dataset: Any = SimpleNamespace(catalog=catalog_of(tmp_path / "images"), latents=Latents())
    metrics = LossValidator(
        when=Interval(steps=1),
        datasets=[dataset],
        text=Words(),
        step_context=step_context,
        denoiser=denoiser,
        average=None,
        as_base=None,
        batch_size=2,
        seed=5,
        base_identity="small",
        output_dir=tmp_path,
        stop=StopSignal(),
        reporter=Reporter([events]),
    ).evaluate(0)
    draws = [torch.Generator().manual_seed(number(5, "held-out noise", path)) for path in ("a.png", "b.png", "c.png")]
    targets = [torch.randn(16, 4, 4, generator=draw) - place for place, draw in enumerate(draws)]
    losses = []
    for low in (0.0, 0.25, 0.5, 0.75):
        sigma = low + 0.125
        expected = torch.stack([(sigma - target).square().mean() for target in targets]).mean()
        losses.append(metrics[f"held_out/{low:.2f}-{low + 0.25:.2f}"])
        assert losses[-1] == pytest.approx(expected.item(), rel=1e-5)
    assert len(metrics) == 6, "the mean, the base's at step 0, and four ranges"
    assert metrics["held_out/mean"] == metrics["held_out/base_mean"] == pytest.approx(sum(losses) / 4)


def told(*means: float, averaged: bool = False) -> list[str]:
    """What is said after each measurement at steps 100, 200 …; averaged: the means are those of the EMA."""
    points: list[dict[str, Any]] = []
    said = []
    for step, mean in enumerate(means, 1):
        points.append({"step": 100 * step, "mean": 1.0 if averaged else mean, "ema_mean": mean if averaged else None})
        said.append(detect_overfitting(points))
    return said


@pytest.mark.parametrize("averaged", [False, True])
def test_a_loss_that_stays_above_its_lowest_for_three_measurements_is_told_once(averaged: bool) -> None:
    said = told(1.1, 1.0, 1.03, 1.2, 1.03, 1.3, averaged=averaged)
    assert [bool(text) for text in said] == [False, False, False, False, True, False]
    assert "lowest at step 200 (1.0000)" in said[4] and "1.0300 now" in said[4]


@pytest.mark.parametrize("means", [(1.0, 1.1, 1.1), (1.0, 1.1, 1.01, 1.1), (1.0, 0.9, 0.8, 0.7), (1.0,)])
def test_a_loss_that_has_not_risen_for_good_is_not_told_of(means: tuple[float, ...]) -> None:
    """Not for two measurements, not by as little as one in a hundred, which is what noise does."""
    assert not any(told(*means))


def test_the_same_images_are_kept_back_in_every_version(tmp_path: Path) -> None:
    """Else a run that goes on would train on what it measures with: those whose seeded hash is smallest."""
    for place in range(9):
        image(tmp_path / f"{place}.png")
    catalog = catalog_of(tmp_path)
    (held,) = held_out_mask([catalog], count=3, seed=5)
    smallest = sorted(catalog.paths, key=lambda path: number(5, "held out", path))[:3]
    assert sorted(path for path, is_held in zip(catalog.paths, held, strict=True) if is_held) == sorted(smallest)
