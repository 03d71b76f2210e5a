"""What both trainings share: the optimizer, the average of the weights, and a clock that pauses and resumes."""

import math
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CORES = 2
PAUSE_FILE = Path("/tmp/pause_training")
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalised(matrices: Tensor, *, rounds: int = 5) -> Tensor:
    """[N, a, b] with singular values near 1, by the quintic Newton-Schulz iteration of Muon (Jordan et al. 2024)."""
    first, third, fifth = NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    result = matrices.bfloat16()
    result = result.mT if tall else result
    result = result / (result.float().norm(dim=(1, 2), keepdim=True).bfloat16() + 1e-7)
    for _ in range(rounds):
        gram = result @ result.mT
        result = first * result + (third * gram + fifth * gram @ gram) @ result
    return result.mT if tall else result


class Muon(torch.optim.Optimizer):
    """Muon for matrices and convolutions: an AdamW learning rate suits it, its steps being scaled to AdamW's size."""

    def __init__(
        self, params: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.01
    ):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every parameter; those of one shape go through the iteration together."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault((parameter.shape[0], parameter[0].numel()), []).append(parameter)
            for (rows, columns), parameters in by_shape.items():
                updates = torch.stack([self._smoothed(parameter, group["momentum"]) for parameter in parameters])
                size = group["lr"] * 0.2 * math.sqrt(max(rows, columns))
                for parameter, update in zip(parameters, orthogonalised(updates), strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update.reshape(parameter.shape).to(parameter.dtype), alpha=-size)

    def _smoothed(self, parameter: nn.Parameter, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        state["momentum"].lerp_(parameter.grad, 1 - momentum)
        return torch.lerp(parameter.grad, state["momentum"], momentum).flatten(1)


def optimizers_for(
    models: Sequence[nn.Module], *, lr: float, kept_from_muon: Sequence[str]
) -> list[torch.optim.Optimizer]:
    """Muon for weights of two or more dimensions, AdamW for the rest and for names with a part of `kept_from_muon`."""
    named = [pair for model in models for pair in model.named_parameters()]
    matrices = [p for name, p in named if p.dim() >= 2 and not any(part in name for part in kept_from_muon)]
    chosen = {id(p) for p in matrices}
    others = [p for _, p in named if id(p) not in chosen]
    return [Muon(matrices, lr=lr), torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0)]


class Average:
    """An exponential moving average of several models' weights, which draws better than the last weights do."""

    def __init__(self, models: Sequence[nn.Module], *, decay: float):
        self.live = [parameter for model in models for parameter in model.parameters()]
        self.decay, self.updates = decay, 0
        self.kept = [parameter.detach().clone() for parameter in self.live]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights; the first ones count more, so that the start is soon forgotten."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.kept, [parameter.detach() for parameter in self.live], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the models' weights with the averaged ones; a second call undoes it."""
        for parameter, kept in zip(self.live, self.kept, strict=True):
            held = parameter.detach().clone()
            parameter.copy_(kept)
            kept.copy_(held)


class Clock:
    """Seconds of training on two cores, by the processors' own count, and the learning rate's share of its peak now.

    Waiting for other work is not counted, so a training that runs beside it gets the steps it was promised.
    """

    def __init__(self, *, minutes: float, seconds_done: float = 0.0):
        self.total, self.seconds, self.last = minutes * 60, seconds_done, self._now()

    @staticmethod
    def _now() -> float:
        return time.process_time() / CORES

    def tick(self) -> bool:
        """Count the time since the last call, wait while the pause file exists, and say whether time is left."""
        now = self._now()
        self.seconds += now - self.last
        self.last = now
        while PAUSE_FILE.exists():
            time.sleep(1)
        return self.seconds < self.total

    @property
    def progress(self) -> float:
        """0 at the start, 1 at the end."""
        return min(1.0, self.seconds / self.total)

    def rate(self, *, warm_up: float = 0.02, floor: float = 0.01) -> float:
        """A linear warm-up, then a cosine down to `floor`."""
        if self.progress < warm_up:
            return 0.02 + 0.98 * self.progress / warm_up
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (self.progress - warm_up) / (1 - warm_up)))


def yield_to_others() -> None:
    """Use one thread while other work runs here: a thread that waits for its turn would hold up the one beside it."""
    runnable = int(Path("/proc/loadavg").read_text().split()[3].split("/")[0])
    torch.set_num_threads(1 if runnable > 1 else 2)


def set_rate(optimizers: Sequence[torch.optim.Optimizer], lr: float) -> None:
    """Give every group the learning rate `lr`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = lr


def save_state(
    file: Path, *, models: Sequence[nn.Module], optimizers: Sequence[Any], average: Average, clock: Clock
) -> None:
    """Write all that a resumed training needs, whole or not at all."""
    content = {
        "models": [model.state_dict() for model in models],
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
        "average": average.kept,
        "updates": average.updates,
        "seconds": clock.seconds,
    }
    torch.save(content, file.with_suffix(".part"))
    file.with_suffix(".part").replace(file)


def load_state(file: Path, *, models: Sequence[nn.Module], optimizers: Sequence[Any], average: Average) -> float:
    """Take up what `save_state` wrote, if it is there; seconds trained until then."""
    if not file.exists():
        return 0.0
    content = torch.load(file, weights_only=True)
    for model, state in zip(models, content["models"], strict=True):
        model.load_state_dict(state)
    for optimizer, state in zip(optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(state)
    with torch.no_grad():
        torch._foreach_copy_(average.kept, content["average"])
    average.updates = content["updates"]
    return content["seconds"]
