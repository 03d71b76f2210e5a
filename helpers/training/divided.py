"""What is done otherwise where each process holds a part of the model's weights only, as FSDP2 has it.

Whatever reads weights between steps, a checkpoint or a validation image, finds them whole, since all processes come
together for it; so nothing else knows of parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn
from torch.optim import Optimizer

from helpers.models.adapters.trainable import Trainable
from helpers.training.callbacks import MainRankHooks, NoHooks
from helpers.training.distributed.runtime import Runtime
from helpers.training.moments import StepInfo
from helpers.training.optim.optimizer_state import optimizer_state
from helpers.training.state import TrainState


def shard_weights(denoiser: nn.Module, *, trained: Trainable, runtime: Runtime) -> Trainable:
    """`trained`, with this process's parts of its weights where the engine divides the model, as it does here."""
    if not runtime.is_sharded:
        return trained
    runtime.shard(denoiser)
    parts = dict(denoiser.named_parameters())
    return replace(trained, weights={name: parts[name] for name in trained.weights})


@dataclass(frozen=True, kw_only=True)
class ShardedHooks:
    """What one rank does between steps, with whole weights while it does it; the others wait here.

    Elsewhere DeepSpeed would have them wait for half an hour at most.

    denoiser: the bare module. weights: that the optimizer moves, by name.
    """

    hooks: MainRankHooks | NoHooks
    runtime: Runtime
    denoiser: nn.Module
    optimizer: Optimizer
    weights: Mapping[str, nn.Parameter]

    def on_step_end(self, step: int) -> None:
        self.hooks.on_step_end(step)

    def save(self, state: TrainState, *, keep_all: bool = False) -> None:
        with self.runtime.gathered_weights(self.denoiser):
            self.hooks.save(state, keep_all=keep_all)
            if self.runtime.rank != 0:
                optimizer_state(self.optimizer, weights=self.weights)  # gives its parts to the first rank
        self.runtime.barrier()

    def validate(self, moment: StepInfo) -> None:
        if self.runtime.on_any_rank(self.hooks.is_due(moment)):
            with self.runtime.gathered_weights(self.denoiser):
                self.hooks.validate(moment)
            self.runtime.barrier()
