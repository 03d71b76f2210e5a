"""The objective is the one of the reference's section 4, against plain re-computation and known distributions."""

import math
from typing import Any

import pytest
import torch

from helpers.config.options.training import ObjectiveOptions
from helpers.models import flow_matching as flow

DRAWS = 2500


def draws(*, shift: float = 1.0, **objective: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    options = ObjectiveOptions(**objective)
    return torch.stack([flow.sample_sigma(generator, objective=options, shift=shift) for _ in range(DRAWS)])


def empirical(values: torch.Tensor, at: float) -> float:
    return (values <= at).float().mean().item()


def cosmap_distribution(at: float) -> float:
    return 2 / math.pi * math.atan(at / (1 - at))


def logit_normal_distribution(at: float, mean: float = 0.0, std: float = 1.0) -> float:
    return 0.5 * (1 + math.erf((math.log(at / (1 - at)) - mean) / (std * math.sqrt(2))))


DISTRIBUTIONS = [
    ({"timestep_sampling": "uniform"}, lambda at: at),
    ({"timestep_sampling": "logit_normal"}, logit_normal_distribution),
    (
        {"timestep_sampling": "logit_normal", "logit_mean": 0.5, "logit_std": 0.6},
        lambda at: logit_normal_distribution(at, 0.5, 0.6),
    ),
    ({"timestep_sampling": "cosmap"}, cosmap_distribution),
    ({"timestep_sampling": "beta"}, lambda at: 3 * at**2 - 2 * at**3),
    ({"timestep_sampling": "mode", "mode_scale": 0.0}, lambda at: at),
]


@pytest.mark.parametrize(("objective", "distribution"), DISTRIBUTIONS)
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_noise_levels_follow_their_distribution(objective: dict[str, Any], distribution: Any, shift: float) -> None:
    sigmas = draws(shift=shift, **objective)
    assert sigmas.dtype == torch.float32
    assert sigmas.min() > 0 and sigmas.max() <= 1
    for at in (0.1, 0.3, 0.5, 0.7, 0.9):
        unshifted = at / (shift - (shift - 1) * at)
        assert empirical(sigmas, at) == pytest.approx(distribution(unshifted), abs=0.035)


@pytest.mark.parametrize(
    ("asked", "size_px", "shift"),
    [
        (1.0, (1024, 1024), 1.0),
        (2.5, (64, 64), 2.5),
        ("model", (64, 64), 3.5),
        ("auto", (256, 256), 1.0),
        ("auto", (512, 512), 1.5),
        ("auto", (768, 1344), 3 * math.sqrt(768 * 1344) / 1024),
        ("auto", (1024, 1024), 3.0),
        ("auto", (1440, 1440), 3 * 1440 / 1024),
    ],
)
def test_the_shift_is_a_number_the_model_s_or_by_resolution(
    asked: float | str, size_px: tuple[int, int], shift: float
) -> None:
    options = ObjectiveOptions(flow_shift=asked)
    assert flow.flow_shift(options, model_shift=3.5, pixels=math.prod(size_px)) == pytest.approx(shift, rel=1e-12)


def test_mode_sampling_is_equation_20_and_prefers_the_middle() -> None:
    uniform = torch.linspace(0, 1, 11)
    expected = [1 - u - 1.29 * (math.cos(math.pi / 2 * u) ** 2 - 1 + u) for u in uniform.tolist()]
    torch.testing.assert_close(flow.mode(uniform, scale=1.29), torch.tensor(expected), atol=1e-6, rtol=0)
    middle = draws(timestep_sampling="mode", mode_scale=1.29)
    assert ((middle > 0.25) & (middle < 0.75)).float().mean() > 0.6


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "mode", "cosmap", "beta"])
def test_a_draw_depends_on_its_generator_alone(sampling: str) -> None:
    options = ObjectiveOptions(timestep_sampling=sampling)

    def draw() -> torch.Tensor:
        return flow.sample_sigma(torch.Generator().manual_seed(3), objective=options, shift=3.0)

    torch.manual_seed(1)
    first = draw()
    before = torch.get_rng_state()
    assert torch.equal(first, draw())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("mean", [-300.0, 300.0])
@pytest.mark.parametrize("weighting", ["none", "sigma_sqrt", "cosmap"])
def test_no_noise_level_however_extreme_gives_a_loss_that_is_no_number(mean: float, weighting: str) -> None:
    sigmas = draws(logit_mean=mean, shift=3.0)[:2]
    assert sigmas.min() > 0 and sigmas.max() <= 1
    losses = flow.loss_weights(sigmas, weighting=weighting) * torch.zeros(2)
    assert torch.equal(losses, torch.zeros(2))


def test_the_target_is_what_leads_from_any_noisy_latent_to_the_clean_one() -> None:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 16, 4, 6, generator=generator)
    sigmas = torch.tensor([1e-6, 0.3, 1.0])
    noisy = flow.noisy_latents(latents, noise, sigmas)
    for sample, sigma in enumerate(sigmas.tolist()):
        expected = (1 - sigma) * latents[sample] + sigma * noise[sample]
        torch.testing.assert_close(noisy[sample], expected, atol=1e-6, rtol=0)
    target = flow.velocity_target(latents, noise)
    torch.testing.assert_close(noisy - sigmas.view(-1, 1, 1, 1) * target, latents, atol=1e-5, rtol=0)
    assert torch.equal(noisy[2], noise[2])


@pytest.mark.parametrize(
    ("loss_type", "plain"),
    [
        ("l2", lambda d: d * d),
        ("huber", lambda d: 0.2 * (math.sqrt(d * d + 0.01) - 0.1)),
        ("smooth_l1", lambda d: 2 * (math.sqrt(d * d + 0.01) - 0.1)),
    ],
)
def test_losses_are_in_fp32_and_averaged_over_each_sample(loss_type: str, plain: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = torch.randn(2, 2, 3, 4, 4, generator=generator)
    prediction = prediction.bfloat16()
    losses = flow.loss_per_sample(prediction, target, loss_type=loss_type)
    assert losses.dtype == torch.float32 and losses.shape == (2,)
    for sample in range(2):
        differences = (prediction[sample].float() - target[sample]).flatten().tolist()
        expected = sum(plain(d) for d in differences) / len(differences)
        assert losses[sample].item() == pytest.approx(expected, rel=1e-5)


def test_losses_pull_however_close_or_far_the_prediction_is() -> None:
    for loss_type in ("l2", "huber", "smooth_l1"):
        prediction = torch.tensor([[0.0], [1e4]], requires_grad=True)
        flow.loss_per_sample(prediction, torch.zeros(2, 1), loss_type=loss_type).sum().backward()
        assert prediction.grad is not None and torch.isfinite(prediction.grad).all()
        assert prediction.grad[1].item() > 0


def test_weights() -> None:
    sigmas = torch.tensor([0.1, 0.5, 1.0])
    assert flow.loss_weights(sigmas, weighting="none").tolist() == [1, 1, 1]
    torch.testing.assert_close(flow.loss_weights(sigmas, weighting="sigma_sqrt"), torch.tensor([100.0, 4.0, 1.0]))
    cosmap = [2 / (math.pi * (1 - 2 * s + 2 * s * s)) for s in sigmas.tolist()]
    torch.testing.assert_close(flow.loss_weights(sigmas, weighting="cosmap"), torch.tensor(cosmap))


def test_even_the_cleanest_noise_levels_are_trained_on_as_often_as_their_distribution_says() -> None:
    """The bound that keeps losses finite is far below every level that comes."""
    sigmas = flow.sample_sigma(
        torch.Generator().manual_seed(0),
        objective=ObjectiveOptions(timestep_sampling="uniform"),
        shift=1.0,
        shape=(1_000_000,),
    )
    for at in (1e-4, 1e-3, 1e-2):
        assert (sigmas < at).float().mean().item() == pytest.approx(at, rel=0.3)
    assert sigmas.min() < 1e-5


def test_the_weight_of_clean_samples_grows_up_to_a_millionfold() -> None:
    """1 / t² as diffusers' scripts have it, down to t = 0.001 and no further."""
    sigmas = torch.tensor([2e-3, 1e-3, 5e-4, 1e-6])
    torch.testing.assert_close(flow.loss_weights(sigmas, weighting="sigma_sqrt"), torch.tensor([25e4, 1e6, 1e6, 1e6]))
