"""What happens between optimizer steps: the main rank saves and evaluates, other ranks do nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn
from torch.optim import Optimizer

from helpers.models.adapters.trainable import Trainable
from helpers.reporting.events import MetricsMeasured
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.checkpoint import CheckpointWriter
from helpers.training.distributed.runtime import Runtime
from helpers.training.optim.ema import WeightAverage
from helpers.training.optim.optimizer_state import optimizer_state
from helpers.training.plan import StepInfo, TrainState
from helpers.training.validation.evaluator import Evaluator

VALIDATE_NOW = "validate_now"


@dataclass(frozen=True, kw_only=True)
class MainRankHooks:
    """Averages the weights, saves checkpoints and runs the evaluators, in their order.

    trigger_file: a file that you create to run all evaluators once; it is deleted then.
    """

    writer: CheckpointWriter
    evaluators: Sequence[Evaluator]
    average: WeightAverage
    trigger_file: Path
    reporter: Reporter

    def on_step_end(self, step: int) -> None:
        self.average.update(step)

    def save(self, state: TrainState, *, keep_all: bool = False) -> None:
        self.writer.save(state, keep_all=keep_all)

    def validate(self, info: StepInfo) -> None:
        triggered = self._take_trigger()
        for evaluator in self.evaluators:
            if triggered or evaluator.when.includes(info):
                metrics = evaluator.evaluate(info.step, only_missing=info.is_begin)
                if metrics:
                    self.reporter.handle(MetricsMeasured(step=info.step, evaluator=evaluator.name, metrics=metrics))

    def is_due(self, info: StepInfo) -> bool:
        """Whether `validate` has something to do."""
        return self.trigger_file.exists() or any(each.when.includes(info) for each in self.evaluators)

    def _take_trigger(self) -> bool:
        """Whether the trigger file was there; it is deleted."""
        try:
            self.trigger_file.unlink()
        except OSError:
            return False
        return True


@dataclass(frozen=True)
class NoHooks:
    """For other ranks: all ranks have the same weights, so the main rank saves and evaluates alone."""

    def on_step_end(self, step: int) -> None:
        """The main rank keeps the average."""

    def save(self, state: TrainState, *, keep_all: bool = False) -> None:
        """The main rank saves."""

    def validate(self, info: StepInfo) -> None:
        """The main rank evaluates."""

    def is_due(self, info: StepInfo) -> bool:
        return False


def shard_weights(denoiser: nn.Module, *, trained: Trainable, runtime: Runtime) -> Trainable:
    """Shard the denoiser if FSDP2 is on; returns `trained` with this rank's shards as its weights."""
    if not runtime.is_sharded:
        return trained
    runtime.shard(denoiser)
    shards = dict(denoiser.named_parameters())
    return replace(trained, weights={name: shards[name] for name in trained.weights})


@dataclass(frozen=True, kw_only=True)
class ShardedHooks:
    """Runs the hooks of a rank with the weights gathered from all ranks, where each rank holds only shards of them.

    The other ranks wait here; elsewhere DeepSpeed would time out after half an hour.

    denoiser: the bare module. weights: trainable parameters by name.
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
                optimizer_state(self.optimizer, weights=self.weights)  # sends its shards to the main rank
        self.runtime.barrier()

    def validate(self, info: StepInfo) -> None:
        if self.runtime.on_any_rank(self.hooks.is_due(info)):
            with self.runtime.gathered_weights(self.denoiser):
                self.hooks.validate(info)
            self.runtime.barrier()
