"""The exponential moving average (EMA) of the trained weights, whose images vary less than those of any one step."""

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
"""How many numbers are copied at once to an average on the CPU; each copy waits for the device once."""


class WeightAverage(Protocol):
    """An average of the trained weights, or none."""

    @property
    def facts(self) -> Mapping[str, str]:
        """The metadata of a file made from the average."""
        ...

    def update(self, step: int) -> None:
        """Update the average with the weights after optimizer step `step`, from 1."""
        ...

    def applied(self) -> AbstractContextManager[None]:
        """Within it the model has the averaged weights; afterwards its own again, to the bit."""
        ...

    def applied_for_saving(self) -> AbstractContextManager[None]:
        """Within it the model has the weights that a checkpoint stores as its result."""
        ...

    def save(self, folder: Path) -> None:
        """Write the average's own file into a checkpoint's folder."""
        ...

    def load(self, folder: Path) -> None:
        """Load it from a checkpoint's folder; without a file there, it starts from the current weights."""
        ...


class NoAverage:
    """No average: the weights as they are."""

    facts: Mapping[str, str] = {}

    def update(self, step: int) -> None:
        """Nothing to update."""

    def applied(self) -> AbstractContextManager[None]:
        return nullcontext()

    def applied_for_saving(self) -> AbstractContextManager[None]:
        return nullcontext()

    def save(self, folder: Path) -> None:
        """Nothing to write."""

    def load(self, folder: Path) -> None:
        """Nothing to read."""


class Ema:
    """An exponential moving average in fp32, whatever the weights' dtype: a <- d a + (1 - d) w.

    It starts at the current weights. Its value after a step depends only on the weights and the step number.
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
            copy_tensors(folder / AVERAGES, into=self._averages, fix="Set what is trained back, or set USE_EMA=false.")


def downloaded(weights: Mapping[str, nn.Parameter], *, to: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Each weight by name in fp32, on the device of its tensor in `to`.

    Weights on another device are copied in groups, since each copy waits for the device.
    """
    group: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.device == to[name].device:
            yield name, weight.detach().float()
            continue
        if group and sum(each.numel() for each in group.values()) + weight.numel() > DOWNLOAD_NUMBERS:
            yield from _copied_together(group)
            group = {}
        group[name] = weight.detach()
    if group:
        yield from _copied_together(group)


def _copied_together(group: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    flat = torch.cat([weight.flatten().float() for weight in group.values()]).cpu()
    parts = flat.split([weight.numel() for weight in group.values()])
    for (name, weight), part in zip(group.items(), parts, strict=True):
        yield name, part.view(weight.shape)


@contextmanager
def restored_weights(weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Restores the weights on exit, to the bit."""
    # The copy is on the CPU, so that a device never holds two copies of a large model.
    own = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
    try:
        yield
    finally:
        copy_weights(weights, own)


def copy_weights(weights: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy `values` into the weights."""
    for name, weight in weights.items():
        weight.detach().copy_(values[name])


def decay_at(step: int, *, decay: float) -> float:
    """The decay at step `step`, from 1: smaller at first, when the average is mostly the initial weights.

    min(decay, (1 + step) / (10 + step)), as TensorFlow's `tf.train.ExponentialMovingAverage` does with `num_updates`.
    """
    return min(decay, (1 + step) / (10 + step))


def validation_weights(average: WeightAverage, options: EmaOptions) -> Callable[[], AbstractContextManager[None]]:
    """The context in which validation images are generated."""
    return average.applied if options.ema_validation == "ema_only" else nullcontext
