"""Divides an optimizer's memory among processes, each of which keeps the whole model: DeepSpeed's ZeRO, stage 1 and 2.

Weights are whole wherever they are read, and a checkpoint is the one that whole optimizers leave. What DeepSpeed is not
asked for: precision, learning rate, when a step is taken and what is saved.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from helpers.config.options.training import OptimizerOptions, RunOptions
from helpers.training.distributed.runtime import Runtime
from helpers.training.optim.optimizers import make_optimizer

# 200 MB of fp32 gradients are shared at once; its own choice takes 2 GB of each card.
GRADIENTS_AT_ONCE = 50_000_000


class ZeroOptimizer(Optimizer):
    """An optimizer of which each process holds a part; to whoever saves or restores it, it looks whole.

    engine: DeepSpeed's, on which the forward pass is called. All processes come to every look into `state`.
    """

    def __init__(self, engine: Any, *, optimizer: Optimizer, group_of: dict[nn.Parameter, int]) -> None:
        self.engine = engine
        self.param_groups = optimizer.param_groups
        self.state = GatheredState(optimizer, group_of=group_of)  # type: ignore[assignment]


class GatheredState(MutableMapping[nn.Parameter, dict[str, Any]]):
    """What is remembered of each weight, put together from the parts of all processes where it is asked for.

    Its optimizer knows one flat tensor to a group, this process's part of the group's weights laid end to end;
    DeepSpeed notes on each weight where it lies in there.
    """

    def __init__(self, optimizer: Optimizer, *, group_of: dict[nn.Parameter, int]) -> None:
        self._optimizer = optimizer
        self._group_of = group_of

    def __getitem__(self, weight: nn.Parameter) -> dict[str, Any]:
        part = self._part_of(weight)
        memory = self._optimizer.state[part]
        return {key: self._whole(value, weight) if _lies_like(value, part) else value for key, value in memory.items()}

    def __setitem__(self, weight: nn.Parameter, values: dict[str, Any]) -> None:
        """Take this process's part of `values`, which are whole."""
        part = self._part_of(weight)
        memory = self._optimizer.state[part]
        for key, value in values.items():
            if not _lies_like(value, weight):
                memory[key] = value
                continue
            if key not in memory:
                memory[key] = torch.zeros_like(part, requires_grad=False)
            for here, there in _places(weight):
                memory[key][here] = value.flatten()[there]

    def __delitem__(self, weight: nn.Parameter) -> None:
        raise NotImplementedError("an optimizer does not forget single weights")

    def __contains__(self, weight: object) -> bool:
        return weight in self._group_of and bool(self._optimizer.state.get(self._part_of(weight)))

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(self._group_of)

    def __len__(self) -> int:
        return len(self._group_of)

    def _part_of(self, weight: Any) -> Tensor:
        """This process's part of all weights of its group, flat."""
        return self._optimizer.param_groups[self._group_of[weight]]["params"][0]

    def _whole(self, memory: Tensor, weight: nn.Parameter) -> Tensor:
        whole = torch.zeros(weight.numel(), dtype=memory.dtype, device=memory.device)
        for here, there in _places(weight):
            whole[there] = memory[here]
        torch.distributed.all_reduce(whole)  # each number is one process's, and zero elsewhere
        return whole.view(weight.shape).cpu()


def _places(weight: Any) -> Iterator[tuple[slice, slice]]:
    """Where numbers of `weight` lie in this process's part, and in the flattened weight; nothing where none does."""
    if (known := weight._hp_mapping) is not None:
        here, there = known.hp_fragment_address, known.lp_fragment_address
        yield slice(here.start, here.start + here.numel), slice(there.start, there.start + there.numel)


def _lies_like(value: Any, other: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == other.shape


class AutocastModule(nn.Module):
    """A model that computes in the dtype it is told to, since DeepSpeed's forward pass turns autocast off."""

    def __init__(self, model: nn.Module, autocast: Callable[[], AbstractContextManager[Any]]) -> None:
        super().__init__()
        self.model = model
        self._autocast = autocast

    def forward(self, *values: Any, **named: Any) -> Any:
        with self._autocast():
            return self.model(*values, **named)


def wrap_model_and_optimizer(
    model: nn.Module,
    options: OptimizerOptions,
    *,
    weights: Mapping[str, nn.Parameter],
    run: RunOptions,
    runtime: Runtime,
) -> tuple[nn.Module, Optimizer]:
    """What the forward pass is called on, and a new optimizer of `weights`: as ZeRO divides it where that is asked for.

    model: holds `weights`; the same in all processes.
    """
    optimizer = make_optimizer(options, weights=weights, seed=run.seed)
    if not runtime.zero_stage:
        return runtime.prepare(model), optimizer
    deepspeed: Any = import_module("deepspeed")  # which a person installs who wants it
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)  # it tells of every buffer
    group_of = {weight: index for index, group in enumerate(optimizer.param_groups) for weight in group["params"]}
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), auto_mpi_discovery=False)
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # with this it only estimates its own speed
        "gradient_accumulation_steps": 1,  # `Runtime.keep_gradients` says which is the last
        "gradient_clipping": options.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": runtime.zero_stage, "reduce_bucket_size": GRADIENTS_AT_ONCE},
    }
    engine, *_ = deepspeed.initialize(
        model=AutocastModule(model, runtime.autocast), optimizer=optimizer, config=settings, dist_init_required=False
    )
    return engine, ZeroOptimizer(engine, optimizer=optimizer, group_of=group_of)
