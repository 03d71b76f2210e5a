"""Measures the loss on held-out images, which shows overfitting."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.dataloader.loader import TextLookup
from helpers.dataloader.rng import generator
from helpers.files import atomic_write
from helpers.models.contexts import eval_mode
from helpers.models.flow_matching import loss_per_sample, noisy_latents, velocity_target
from helpers.reporting.events import Notice, SigmaLoss
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter
from helpers.training.optim.ema import WeightAverage
from helpers.training.plan import Interval
from helpers.training.preparation.prepare import PreparedDataset
from helpers.training.signals import StopSignal
from helpers.training.step import StepContext

LOG = Path("logs", "held_out.jsonl")
RANGES = 4
SIGMAS = tuple((part + 0.5) / RANGES for part in range(RANGES))
"""The middles of equal ranges: the same for every run, so that runs can be compared."""

RISEN_TIMES, RISEN_BY = 3, 1.02
"""Overfitting: this many measurements in a row, each this factor above the lowest one."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One line of the log: the mean loss over `images`, each with the same noise and noise levels σ every time.

    by_sigma: one loss per range of σ, measured at its middle. ema_…: of the averaged weights, if any. base_mean: of the
    base model; None if it can no longer be measured.
    """

    step: int
    images: int
    mean: float
    by_sigma: tuple[SigmaLoss, ...]
    base_mean: float | None = None
    ema_mean: float | None = None
    ema_by_sigma: tuple[SigmaLoss, ...] = ()

    def metrics(self) -> dict[str, float]:
        """The measured values by metric name: the means of the weights, the average and the base, and by σ."""
        means = {"mean": self.mean, "ema_mean": self.ema_mean, "base_mean": self.base_mean}
        found = {f"held_out/{name}": value for name, value in means.items() if value is not None}
        ranges = [("", part) for part in self.by_sigma] + [("ema_", part) for part in self.ema_by_sigma]
        return found | {f"held_out/{name}{part.low:.2f}-{part.high:.2f}": part.loss for name, part in ranges}


@dataclass(frozen=True, kw_only=True)
class LossValidator:
    """The evaluator of the validation loss on held-out images.

    denoiser: the bare module. average: None without one. as_base: see `Trainable`; None in full fine-tuning.
    batch_size: images at once. base_identity: of the base's weights.
    """

    when: Interval
    name: str = "validation loss"
    datasets: Sequence[PreparedDataset]
    text: TextLookup
    step_context: StepContext
    denoiser: nn.Module
    average: WeightAverage | None
    as_base: Callable[[nn.Module], AbstractContextManager[None]] | None
    batch_size: int
    seed: int
    base_identity: str
    output_dir: Path
    stop: StopSignal
    reporter: Reporter

    def evaluate(self, step: int, *, only_missing: bool = False) -> Mapping[str, float]:
        """Measure the loss after `step` and log it; with `only_missing`, unless the log has it.

        Training's modes, weights, gradients and random state are unchanged afterwards.
        """
        points = [point for point in self._points() if point["step"] < step or only_missing]
        if not self.datasets or (only_missing and any(point["step"] == step for point in points)):
            return {}
        points = [point for point in points if point["step"] < step]
        contexts = self._contexts(points)
        losses: dict[str, list[float]] = {}
        with stage(
            self.reporter, "measure the validation loss", total=self._images * len(contexts), unit="images"
        ) as advance:
            for name, context in contexts.items():
                with context:
                    losses[name] = self._losses(advance)
        if self.stop.requested:
            return {}
        known = points[0]["base_mean"] if points else None
        base = _mean(losses["base"]) if "base" in losses else _mean(losses["raw"]) if step == 0 else known
        measured = Measurement(
            step=step,
            images=self._images,
            mean=_mean(losses["raw"]),
            by_sigma=self._by_sigma(losses["raw"]),
            base_mean=base,
            ema_mean=_mean(losses["ema"]) if "ema" in losses else None,
            ema_by_sigma=self._by_sigma(losses["ema"]) if "ema" in losses else (),
        )
        self._log(measured)
        if warning := detect_overfitting([*points, asdict(measured)]):
            self.reporter.handle(Notice(level="warning", text=warning))
        return measured.metrics()

    def _contexts(self, points: Sequence[Any]) -> dict[str, AbstractContextManager[None]]:
        """A context with the weights to measure, by name; the base model only once."""
        contexts: dict[str, AbstractContextManager[None]] = {"raw": nullcontext()}
        if self.average is not None:
            contexts["ema"] = self.average.applied()
        if self.as_base is not None and not points:
            contexts["base"] = self.as_base(self.denoiser)
        return contexts

    @torch.no_grad()
    def _losses(self, advance: Callable[..., None]) -> list[float]:
        """The unweighted mean loss over all images by σ; waits for the device once per batch."""
        sums = torch.zeros(len(SIGMAS), dtype=torch.float64)
        with eval_mode(self.denoiser):
            for dataset, indices in self._batches():
                if self.stop.requested:
                    break
                sums += torch.tensor(self._batch(dataset, indices), dtype=torch.float64)
                advance(len(indices))
        return (sums / self._images).tolist()

    def _batch(self, dataset: PreparedDataset, indices: Sequence[int]) -> list[float]:
        """The summed losses of some images of one size, by σ."""
        runtime, catalog = self.step_context.runtime, dataset.catalog
        latents = torch.stack([dataset.latents.latents(index) for index in indices])
        noise = torch.stack(
            [
                torch.randn(one.shape, generator=generator(self.seed, "held-out noise", catalog.paths[index]))
                for one, index in zip(latents, indices, strict=True)
            ]
        )
        texts = [self.text.embedding(catalog.captions_of(index)[0]) for index in indices]
        latents, noise, prompts, pooled = (
            tensor.to(runtime.device)
            for tensor in (
                latents,
                noise,
                torch.stack([text.prompt_embeds for text in texts]),
                torch.stack([text.pooled for text in texts]),
            )
        )
        target = velocity_target(latents, noise)
        sums: list[Tensor] = []
        for sigma in SIGMAS:
            sigmas = torch.full((len(indices),), sigma, device=runtime.device)
            with runtime.autocast():
                noisy = noisy_latents(latents, noise, sigmas)
                prediction = self.step_context.predict(self.denoiser, noisy, sigmas, prompts, pooled)
            losses = loss_per_sample(prediction, target, loss_type=self.step_context.objective.loss_type)
            sums.append(losses.sum())
        return torch.stack(sums).tolist()

    def _batches(self) -> Iterator[tuple[PreparedDataset, list[int]]]:
        for dataset in self.datasets:
            for bucket in dataset.catalog.buckets:
                for first in range(0, len(bucket), self.batch_size):
                    yield dataset, bucket.images[first : first + self.batch_size].tolist()

    @property
    def _images(self) -> int:
        return sum(len(dataset.catalog) for dataset in self.datasets)

    def _by_sigma(self, losses: Sequence[float]) -> tuple[SigmaLoss, ...]:
        return tuple(
            SigmaLoss(low=part / RANGES, high=(part + 1) / RANGES, loss=loss, sigma=sigma, samples=self._images)
            for part, (sigma, loss) in enumerate(zip(SIGMAS, losses, strict=True))
        )

    @cached_property
    def _measured(self) -> str:
        """A hash of everything the loss depends on besides the weights: losses with another hash are not comparable."""
        inputs: list[object] = [self.base_identity, self.seed, SIGMAS, self.step_context.objective.loss_type]
        for dataset in self.datasets:
            catalog = dataset.catalog
            for index in range(len(catalog)):
                inputs += [catalog.dataset_id, catalog.paths[index], catalog.captions_of(index)[0]]
            inputs.append(catalog.geometries.tolist())
        return hashlib.blake2b(ascii(inputs).encode(), digest_size=8).hexdigest()

    def _lines(self) -> list[dict[str, Any]]:
        file = self.output_dir / LOG
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def _points(self) -> list[dict[str, Any]]:
        return [line for line in self._lines() if line["measured"] == self._measured]

    def _log(self, measured: Measurement) -> None:
        """Append the measurement; those at later steps, of a run that started again, are removed."""
        kept = [line for line in self._lines() if line["measured"] != self._measured or line["step"] < measured.step]
        lines = [*kept, {"measured": self._measured, **asdict(measured)}]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        atomic_write(self.output_dir / LOG, lambda path: path.write_text(text))


def detect_overfitting(points: Sequence[dict[str, Any]]) -> str:
    """The warning when the validation loss has started to rise for good; empty before and after that.

    points: all measurements so far, with `step`, `mean` and `ema_mean`. With an average, its loss decides, since the
    average is the result of the run.
    """
    means = [point["mean"] if point["ema_mean"] is None else point["ema_mean"] for point in points]
    if not _has_risen(means) or _has_risen(means[:-1]):
        return ""
    lowest = min(range(len(means)), key=means.__getitem__)
    return (
        f"the validation loss was lowest at step {points[lowest]['step']:,} ({means[lowest]:.4f}) and has been higher"
        f" for {RISEN_TIMES} measurements ({means[-1]:.4f} now): the run overfits from there on. More"
        " images, a lower learning rate or fewer steps help; a checkpoint near that step generalizes best."
    )


def _has_risen(means: Sequence[float]) -> bool:
    if len(means) <= RISEN_TIMES:
        return False
    return min(means[-RISEN_TIMES:]) > min(means[:-RISEN_TIMES]) * RISEN_BY


def _mean(losses: Sequence[float]) -> float:
    return sum(losses) / len(losses)
