"""DeepSpeed's ZeRO, stages 1 and 2: shards the optimizer state among processes, each of which holds the full model.

Weights are complete wherever they are read, and checkpoints are the same as without sharding. DeepSpeed does not
control precision, learning rate, when a step is taken or what is saved.
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

# 200 MB of fp32 gradients are reduced at once; DeepSpeed's default takes 2 GB of each GPU.
GRADIENTS_AT_ONCE = 50_000_000


class ZeroOptimizer(Optimizer):
    """An optimizer sharded among processes, with a `state` that reads and writes complete tensors.

    engine: DeepSpeed's, on which the forward pass is called. Every access to `state` is collective: all ranks make it.
    """

    def __init__(self, engine: Any, *, optimizer: Optimizer, group_of: dict[nn.Parameter, int]) -> None:
        self.engine = engine
        self.param_groups = optimizer.param_groups
        self.state = GatheredState(optimizer, group_of=group_of)  # type: ignore[assignment]


class GatheredState(MutableMapping[nn.Parameter, dict[str, Any]]):
    """The optimizer state of each weight, gathered from the shards of all processes on access.

    The wrapped optimizer has one flat tensor per group: this process's shard of the group's concatenated weights.
    DeepSpeed stores on each weight its offset in there.
    """

    def __init__(self, optimizer: Optimizer, *, group_of: dict[nn.Parameter, int]) -> None:
        self._optimizer = optimizer
        self._group_of = group_of

    def __getitem__(self, weight: nn.Parameter) -> dict[str, Any]:
        shard = self._shard_of(weight)
        state = self._optimizer.state[shard]
        return {key: self._full(value, weight) if _is_shaped(value, shard) else value for key, value in state.items()}

    def __setitem__(self, weight: nn.Parameter, values: dict[str, Any]) -> None:
        """Store this process's shard of the complete `values`."""
        shard = self._shard_of(weight)
        state = self._optimizer.state[shard]
        for key, value in values.items():
            if not _is_shaped(value, weight):
                state[key] = value
                continue
            if key not in state:
                state[key] = torch.zeros_like(shard, requires_grad=False)
            for here, there in _slices(weight):
                state[key][here] = value.flatten()[there]

    def __delitem__(self, weight: nn.Parameter) -> None:
        raise NotImplementedError("the state of a single weight cannot be deleted")

    def __contains__(self, weight: object) -> bool:
        return weight in self._group_of and bool(self._optimizer.state.get(self._shard_of(weight)))

    def __iter__(self) -> Iterator[nn.Parameter]:
        return iter(self._group_of)

    def __len__(self) -> int:
        return len(self._group_of)

    def _shard_of(self, weight: Any) -> Tensor:
        """This process's flat shard of the group's weights."""
        return self._optimizer.param_groups[self._group_of[weight]]["params"][0]

    def _full(self, shard: Tensor, weight: nn.Parameter) -> Tensor:
        full = torch.zeros(weight.numel(), dtype=shard.dtype, device=shard.device)
        for here, there in _slices(weight):
            full[there] = shard[here]
        torch.distributed.all_reduce(full)  # each element is set on one process and zero on the others
        return full.view(weight.shape).cpu()


def _slices(weight: Any) -> Iterator[tuple[slice, slice]]:
    """The slices of this process's shard and of the flattened weight that match; none if the shard has none of it."""
    if (mapping := weight._hp_mapping) is not None:
        here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
        yield slice(here.start, here.start + here.numel), slice(there.start, there.start + there.numel)


def _is_shaped(value: Any, other: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == other.shape


class AutocastModule(nn.Module):
    """A model that runs under the given autocast, since DeepSpeed's forward pass turns autocast off."""

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
    """The module to call for the forward pass, and a new optimizer of `weights`, sharded if ZeRO is set.

    model: holds `weights`; the same on all processes.
    """
    optimizer = make_optimizer(options, weights=weights, seed=run.seed)
    if not runtime.zero_stage:
        return runtime.prepare(model), optimizer
    deepspeed: Any = import_module("deepspeed")  # an optional package
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)  # it logs every buffer
    group_of = {weight: index for index, group in enumerate(optimizer.param_groups) for weight in group["params"]}
    deepspeed.init_distributed(dist_backend=torch.distributed.get_backend(), auto_mpi_discovery=False)
    settings = {
        "train_micro_batch_size_per_gpu": 1,  # used only for its throughput estimate
        "gradient_accumulation_steps": 1,  # `Runtime.no_sync` marks the last pass
        "gradient_clipping": options.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": runtime.zero_stage, "reduce_bucket_size": GRADIENTS_AT_ONCE},
    }
    engine, *_ = deepspeed.initialize(
        model=AutocastModule(model, runtime.autocast), optimizer=optimizer, config=settings, dist_init_required=False
    )
    return engine, ZeroOptimizer(engine, optimizer=optimizer, group_of=group_of)
