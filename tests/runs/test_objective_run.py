"""What a real run computes is section 4 of the reference: plain PyTorch and diffusers come to the same numbers."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import helpers.training.loop
from helpers.dataloader.types import TrainBatch
from helpers.training.step import StepContext
from tests.runs.harness import COLORS, SmallRun, draw, draw_set, image_dataset

ALPHA, RANK = 8, 4
OBJECTIVE = {
    "lora_rank": RANK,
    "lora_alpha": ALPHA,
    "gradient_accumulation_steps": 1,
    "max_train_steps": 3,
    "train_batch_size": 3,
}


@dataclass
class Seen:
    """What a run's steps were given and made; weights as they were before the step, gradients of that step alone."""

    step_context: StepContext | None = None
    batches: list[TrainBatch] = field(default_factory=list)
    weights: list[dict[str, Tensor]] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Looks on as real runs of one batch a step are made; nothing of them is changed."""
    seen = Seen()
    real: Callable[..., Tensor] = helpers.training.loop.forward_backward

    def looked_at(step_context: StepContext, batch: TrainBatch, **how: Any) -> Tensor:
        seen.step_context = step_context
        seen.batches.append(batch)
        seen.weights.append({name: weight.detach().clone() for name, weight in step_context.weights.items()})
        seen.losses.append(real(step_context, batch, **how))
        moved = {name: weight.grad for name, weight in step_context.weights.items() if weight.grad is not None}
        seen.gradients.append({name: gradient.clone() for name, gradient in moved.items()})
        return seen.losses[-1]

    monkeypatch.setattr(helpers.training.loop, "forward_backward", looked_at)
    return seen


@pytest.fixture
def run(tmp_path: Path, tiny_pipeline: Path) -> SmallRun:
    draw_set(tmp_path / "output" / "datasets" / "colors")
    return SmallRun(tmp_path, tiny_pipeline, settings=OBJECTIVE)


def plain_loss(pipeline: Path, batch: TrainBatch, weights: dict[str, Tensor], *, loss: str, weighting: str) -> Tensor:
    """Section 4, written out: the losses [B] of a batch under a LoRA of these `weights`."""
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    transformer: Any = SD3Transformer2DModel.from_pretrained(pipeline / "transformer").requires_grad_(False)
    for name in (name for name in weights if "lora_A" in name):
        module = transformer.get_submodule(name.removeprefix("transformer.").removesuffix(".lora_A.weight"))
        down, up = weights[name], weights[name.replace("lora_A", "lora_B")]
        module.register_forward_hook(
            lambda module, given, made, down=down, up=up: made + ALPHA / RANK * (given[0] @ down.T @ up.T)
        )
    sigmas = batch.sigmas[:, None, None, None]
    prediction = transformer(
        hidden_states=(1 - sigmas) * batch.latents + sigmas * batch.noise,
        timestep=1000 * batch.sigmas,
        encoder_hidden_states=batch.prompt_embeds.float(),
        pooled_projections=batch.pooled.float(),
    ).sample
    error = prediction - (batch.noise - batch.latents)
    distance = error**2 if loss == "l2" else 2 * 0.1 * ((error**2 + 0.1**2).sqrt() - 0.1)
    losses = distance.mean(dim=(1, 2, 3))
    if weighting == "cosmap":
        losses = losses * 2 / (torch.pi * (1 - 2 * batch.sigmas + 2 * batch.sigmas**2))
    return losses


@pytest.mark.parametrize(("loss", "weighting"), [("l2", "none"), ("huber", "cosmap")])
def test_loss_and_gradients_are_those_of_the_reference(loss: str, weighting: str, run: SmallRun, watch: Seen) -> None:
    assert run.start(loss_type=loss, loss_weighting=weighting) == 0
    assert len(watch.batches) == OBJECTIVE["max_train_steps"]
    for batch, before, gradients, losses in zip(
        watch.batches, watch.weights, watch.gradients, watch.losses, strict=True
    ):
        weights = {name: weight.requires_grad_() for name, weight in before.items()}
        expected = plain_loss(run.pipeline, batch, weights, loss=loss, weighting=weighting)
        torch.testing.assert_close(losses, expected)
        expected.mean().backward()
        assert gradients.keys() == weights.keys()
        for name, weight in weights.items():
            torch.testing.assert_close(gradients[name], weight.grad, rtol=1e-3, atol=1e-6)
    assert all(gradient.abs().sum() > 0 for gradient in watch.gradients[-1].values()), "each part of the LoRA learns"


def test_gradients_reach_the_lora_and_nothing_else(run: SmallRun, watch: Seen) -> None:
    from safetensors.torch import load_file

    assert run.start() == 0
    assert watch.step_context is not None
    learned = {id(weight) for weight in watch.step_context.weights.values()}
    for name, weight in watch.step_context.denoiser.named_parameters():
        assert weight.requires_grad == (id(weight) in learned), name
        assert weight.grad is None or id(weight) in learned, name
    base = load_file(run.pipeline / "transformer" / "diffusion_pytorch_model.safetensors")
    state = watch.step_context.denoiser.state_dict()
    frozen = {name.replace(".base_layer", ""): tensor for name, tensor in state.items() if ".lora_" not in name}
    assert frozen.keys() == base.keys()
    assert all(torch.equal(tensor, base[name]) for name, tensor in frozen.items())


def test_the_distribution_and_the_shift_of_noise_levels_are_the_references(run: SmallRun, watch: Seen) -> None:
    settings: list[dict[str, Any]] = [{"flow_shift": shift} for shift in (1, 3, 6, "model", "auto", None)]
    settings += [{"flow_shift": 1, "logit_mean": 0.7, "logit_std": 0.5}, {"flow_shift": 1, "timestep_sampling": "mode"}]
    for said in settings:
        assert run.start(max_train_steps=2, resume_from_checkpoint="none", **said) == 0
    unshifted, *shifted, moved, of_mode = torch.cat([batch.sigmas for batch in watch.batches]).chunk(len(settings))
    for shift, sigmas in zip((3, 6, 3, 1, 1), shifted, strict=True):  # the model's own scheduler says 3
        torch.testing.assert_close(sigmas, shift * unshifted / (1 + (shift - 1) * unshifted))
    assert unshifted.min() > 0 and unshifted.max() <= 1 and len(unshifted.unique()) == len(unshifted)
    torch.testing.assert_close(moved.logit(), 0.7 + 0.5 * unshifted.logit())
    assert not torch.isclose(of_mode, unshifted).any()


def test_nothing_to_train_is_an_error(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.start(lora_target="no_such_layer") == 1
    assert "no_such_layer" in capsys.readouterr().err
    assert not (run.output / "pytorch_lora_weights.safetensors").exists()


def painted(folder: Path, *, ending: str, seed: int) -> None:
    """An image of each color, of a size that needs no resizing, each in a folder of its own.

    They are not compressed, so that two of one shape are equally long.
    """
    for number, (name, color) in enumerate(COLORS.items()):
        size = [(64, 64), (96, 64), (64, 96)][number % 3]
        drawn = folder / str(number) / "drawn.bmp"
        draw(drawn, color=color, size=size, seed=seed + number)
        drawn.rename(drawn.with_name(f"{name}{ending}"))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_every_latent_is_trained_with_its_own_caption(
    dropout: float, tmp_path: Path, tiny_pipeline: Path, watch: Seen
) -> None:
    """Color in the image, color in the words, as plain diffusers encodes both.

    Files of equal name and length lie in two folders, and beside each other but for their ending, which may be wrong.
    """
    run = SmallRun(tmp_path, tiny_pipeline, settings=OBJECTIVE)
    one, other = run.output / "datasets" / "one", run.output / "datasets" / "other"
    painted(one / "here", ending=".bmp", seed=0)
    painted(one / "here", ending=".png", seed=100)
    painted(one / "there", ending=".bmp", seed=200)
    painted(other, ending=".bmp", seed=300)
    run.datasets = [
        image_dataset(id="one", instance_data_dir=str(one), repeats=1),
        image_dataset(id="other", instance_data_dir=str(other), prepend_instance_prompt=True, instance_prompt="all"),
    ]
    words = [f"{before}{name}" for before in ("", "all ") for name in COLORS]
    assert run.start(caption_dropout_probability=dropout, max_train_steps=20) == 0

    images, captions = Referee(tiny_pipeline).encode(
        sorted(file for file in run.output.glob("datasets/**/*") if file.is_file()), [*words, ""]
    )
    met, dropped = set(), 0
    for batch in watch.batches:
        for row, name in enumerate(batch.paths):
            dataset, path = name.split(": ")
            latent_of = nearest(batch.latents[row], images)
            assert latent_of == run.output / "datasets" / dataset / path
            caption = nearest(batch.prompt_embeds[row].float(), {key: value[0] for key, value in captions.items()})
            assert caption == nearest(batch.pooled[row].float(), {key: value[1] for key, value in captions.items()})
            dropped += caption == ""
            met.add(latent_of)
            assert caption in ("", f"{'all ' * (dataset == 'other')}{latent_of.stem}")
    assert met == set(images)
    assert dropped == 0 if dropout == 0 else 10 < dropped < 50


def nearest(tensor: Tensor, candidates: dict[Any, Tensor]) -> Any:
    """Whose tensor it is; there must be one that is as good as equal, and no second."""
    fitting = {name: other for name, other in candidates.items() if other.shape == tensor.shape}
    found = [name for name, other in fitting.items() if (other - tensor).abs().max() < 0.02]
    assert len(found) == 1, found
    return found[0]


class Referee:
    """Plain diffusers."""

    def __init__(self, folder: Path) -> None:
        from diffusers import StableDiffusion3Pipeline

        self.pipeline: Any = StableDiffusion3Pipeline.from_pretrained(folder)

    @torch.no_grad()
    def encode(self, paths: list[Path], captions: list[str]) -> tuple[dict[Path, Tensor], dict[str, tuple]]:
        """Latents of images as the transformer wants them, and embeddings of captions."""
        vae = self.pipeline.vae
        latents = {}
        for path in paths:
            pixels = self.pipeline.image_processor.preprocess(self.open(path))
            mean = vae.encode(pixels).latent_dist.mean[0]
            latents[path] = (mean - vae.config.shift_factor) * vae.config.scaling_factor
        texts = {}
        for caption in captions:
            embeds, _, pooled, _ = self.pipeline.encode_prompt(
                caption, None, None, do_classifier_free_guidance=False, max_sequence_length=77
            )
            texts[caption] = embeds[0].float(), pooled[0].float()
        return latents, texts

    def open(self, path: Path) -> Any:
        from PIL import Image

        return Image.open(path).convert("RGB")
