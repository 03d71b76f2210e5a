"""A running average of what is trained, which draws more calmly than the weights of any one step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from helpers.config.options.finetune import EmaOptions
from helpers.models.formats.safetensors import copy_tensors, write_tensors

AVERAGES = "ema.safetensors"
DOWNLOAD_NUMBERS = 2**24
"""Weights that are copied to an average on the processor at once, for each of which the device is waited for once."""


class WeightAverage(Protocol):
    """An average of the trained weights, or none."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What a file made of the average says of it."""
        ...

    def update(self, step: int) -> None:
        """Take in the weights as optimizer step `step`, from 1, left them."""
        ...

    def applied(self) -> AbstractContextManager[None]:
        """Within it the model has the average's numbers; afterwards its own again, to the bit."""
        ...

    def applied_for_saving(self) -> AbstractContextManager[None]:
        """Within it the model has the numbers that a checkpoint's own file of weights is to hold."""
        ...

    def save(self, folder: Path) -> None:
        """Write the rest of it to a checkpoint's folder."""
        ...

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint's folder; where an average is not there, from the weights as they are."""
        ...


class NoAverage:
    """The weights as they are."""

    facts: Mapping[str, str] = {}

    def update(self, step: int) -> None:
        """Nothing to take in."""

    def applied(self) -> AbstractContextManager[None]:
        return nullcontext()

    def applied_for_saving(self) -> AbstractContextManager[None]:
        return nullcontext()

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    def load(self, folder: Path) -> None:
        """Nothing to read."""


class Ema:
    """An exponential moving average in fp32, whatever the weights' format: a <- d a + (1 - d) w.

    It begins at the weights as they are. What it is after a step depends on the weights and the step's number alone.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], *, decay: float, interval: int, device: str) -> None:
        """device: `cpu`, or `accelerator` for where the weights are. interval: in optimizer steps."""
        self._weights = weights
        self._decay = decay
        self._interval = interval
        self._averages: dict[str, Tensor] = {
            name: weight.detach().to(device if device == "cpu" else weight.device, torch.float32, copy=True)
            for name, weight in weights.items()
        }

    @property
    def facts(self) -> Mapping[str, str]:
        return {"ema_decay": str(self._decay)}

    @torch.no_grad()
    def update(self, step: int) -> None:
        if step % self._interval:
            return
        share = 1 - decay_at(step, decay=self._decay) ** self._interval
        for name, weight in downloaded(self._weights, to=self._averages):
            self._averages[name].lerp_(weight, share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        with restored_weights(self._weights):
            copy_weights(self._weights, self._averages)
            yield

    def applied_for_saving(self) -> AbstractContextManager[None]:
        return nullcontext()

    def save(self, folder: Path) -> None:
        write_tensors(folder / AVERAGES, self._averages, metadata=self.facts)

    def load(self, folder: Path) -> None:
        if (folder / AVERAGES).exists():
            copy_tensors(folder / AVERAGES, into=self._averages, fix="Set what is trained back, or say USE_EMA=false.")


def downloaded(weights: Mapping[str, nn.Parameter], *, to: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each weight by name, in fp32 where its tensor in `to` is.

    Those that are elsewhere are copied many at a time, since each copy waits for the device.
    """
    group: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.device == to[name].device:
            yield name, weight.detach().float()
            continue
        if group and sum(each.numel() for each in group.values()) + weight.numel() > DOWNLOAD_NUMBERS:
            yield from _at_once(group)
            group = {}
        group[name] = weight.detach()
    if group:
        yield from _at_once(group)


def _at_once(group: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    flat = torch.cat([weight.flatten().float() for weight in group.values()]).cpu()
    parts = flat.split([weight.numel() for weight in group.values()])
    for (name, weight), part in zip(group.items(), parts, strict=True):
        yield name, part.view(weight.shape)


@contextmanager
def restored_weights(weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Afterwards the weights are again what they were, to the bit."""
    # They wait on the processor, so that a device never holds two copies of a large model.
    own = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
    try:
        yield
    finally:
        copy_weights(weights, own)


def copy_weights(weights: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Give the weights these numbers."""
    for name, weight in weights.items():
        weight.detach().copy_(values[name])


def decay_at(step: int, *, decay: float) -> float:
    """How much of the average stays at step `step`, from 1: less at first, when it holds little but where it began.

    min(decay, (1 + step) / (10 + step)), as TensorFlow's `tf.train.ExponentialMovingAverage` does with `num_updates`.
    """
    return min(decay, (1 + step) / (10 + step))


def validation_weights(average: WeightAverage, options: EmaOptions) -> Callable[[], AbstractContextManager[None]]:
    """The context in which validation images are drawn."""
    return average.applied if options.ema_validation == "ema_only" else nullcontext
