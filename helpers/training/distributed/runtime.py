"""The runtime: device, processes and dtypes; the only module that imports accelerate.

It is opened before anything is encoded, since encoding needs a device and ranks too; the model is prepared later. With
one process nothing is wrapped and every call is PyTorch's own.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from helpers.config.checks.launcher import hide_deepspeed_from_accelerate, is_fsdp, zero_stage
from helpers.config.options.model import PrecisionOptions
from helpers.config.options.training import RunOptions
from helpers.errors import ConfigError, LostRankError
from helpers.models.performance.attention import leave_out_cudnn
from helpers.models.quantization import check_device_support
from helpers.training.distributed.sharded_tensors import full_tensor
from helpers.training.distributed.unused_cards import check_no_card_is_unused

# What PyTorch's backends report when a process that they wait for has ended.
LOST_RANK_ERRORS = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "got 0 bytes")
# A rank may wait for another that scans or encodes for hours.
LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """An open runtime. It is the run's `helpers.ranks.Ranks`.

    precision: with `mixed_precision` resolved for the device.
    is_sharded: whether each process holds only a shard of the model's weights (FSDP2).
    zero_stage: of DeepSpeed's ZeRO, which shards the optimizer state (1) and the gradients (2); 0 without it.
    """

    device: torch.device
    precision: PrecisionOptions
    rank: int
    world_size: int
    is_sharded: bool
    zero_stage: int
    _accelerator: Any

    def barrier(self) -> None:
        """Return once every process has called this."""
        self._accelerator.wait_for_everyone()

    def prepare(self, denoiser: nn.Module) -> nn.Module:
        """The module to call for the forward pass: `denoiser` itself, or a wrapper that averages gradients over ranks.

        Each rank has loaded the same frozen weights, so they are not broadcast (quantized ones could not be).
        """
        if self.world_size == 1 or self.is_sharded:
            return denoiser
        frozen = [name for name, weight in denoiser.named_parameters() if not weight.requires_grad]
        buffers = [name for name, _ in denoiser.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(denoiser, frozen + buffers)
        return self._accelerator.prepare_model(denoiser, device_placement=False)  # it is on its device already

    def shard(self, denoiser: nn.Module) -> None:
        """Keep this process's shard of every weight; a block's weights are gathered while it computes.

        Replaces the parameters. All processes must hold the same full weights before.
        """
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        fsdp2_prepare_model(self._accelerator, denoiser)

    @contextmanager
    def gathered_weights(self, denoiser: nn.Module) -> Iterator[None]:
        """Within it each process holds all weights as plain tensors, and a forward pass needs no other process.

        Collective: all processes enter and leave. `denoiser` is the bare module. Not for backward passes.
        """
        if not self.is_sharded:
            yield
            return
        from torch.distributed.fsdp import FSDPModule

        freed = self._accelerator.state.fsdp_plugin.reshard_after_forward
        parts = [module for module in denoiser.modules() if isinstance(module, FSDPModule)]
        for part in parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()
        try:
            yield
        finally:
            for part in parts:
                part.reshard()
                part.set_reshard_after_forward(freed and part is not denoiser, recurse=False)

    def autocast(self) -> AbstractContextManager[Any]:
        """The dtype in which a forward pass computes."""
        if self.precision.mixed_precision == "no":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def no_sync(self, denoiser: Any) -> AbstractContextManager[Any]:
        """Within it, backward passes of the prepared `denoiser` accumulate gradients on each rank without averaging."""
        if self.is_sharded:
            return _without_sync(denoiser.set_requires_gradient_sync)
        if self.zero_stage:
            return _without_sync(denoiser.set_gradient_accumulation_boundary)
        return nullcontext() if self.world_size == 1 else self._accelerator.no_sync(denoiser)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the weights."""
        self._accelerator.backward(loss)

    def mean_over_ranks(self, values: Tensor) -> Tensor:
        """The mean of `values` over ranks; the same on all ranks."""
        return values if self.world_size == 1 else self._accelerator.reduce(values, reduction="mean")

    def shutdown(self) -> None:
        """Return once every process is done, and end communication among them.

        Launchers stop all processes when one exits, and the first may still be writing.
        """
        if self.world_size > 1:
            self.barrier()
            self._accelerator.end_training()

    def on_any_rank(self, flag: bool) -> bool:
        """Whether `flag` is set on at least one rank; the same on all ranks."""
        if self.world_size == 1:
            return flag
        return bool(self._accelerator.reduce(torch.tensor(float(flag), device=self.device)).item())

    def gather_objects(self, words: list[str]) -> list[str]:
        """The concatenated `words` of all ranks; the same on all ranks."""
        if self.world_size == 1:
            return words
        from accelerate.utils import gather_object

        return gather_object(words)

    def clip_gradients(self, weights: Iterable[nn.Parameter], *, max_norm: float) -> Tensor:
        """Clip the gradient norm to `max_norm` (0: no clipping); returns the norm before, fp32 []."""
        weights = list(weights)
        if max_norm > 0:
            norm = self._accelerator.clip_grad_norm_(weights, max_norm)
        else:
            norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        return full_tensor(norm).to(self.device)


def open_runtime(precision: PrecisionOptions, run: RunOptions) -> Runtime:
    """Find the device and the other processes, and set up PyTorch for them.

    Raises ConfigError if there is a GPU that PyTorch cannot use, unless `force_cpu` is set.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.utils import GradientAccumulationPlugin

    on_cpu = find_device(run).type == "cpu"
    if on_cpu and not run.force_cpu:
        check_no_card_is_unused()
    plugin = _fsdp_plugin() if is_fsdp() else None
    with hide_deepspeed_from_accelerate():
        accelerator = Accelerator(
            cpu=on_cpu,  # without it, processes without a GPU would not find each other
            dynamo_backend="no",  # blocks are compiled elsewhere; accelerate would compile them again
            mixed_precision="no",  # `autocast` below, so that one process and several compute the same
            fsdp_plugin=plugin,
            # otherwise ACCELERATE_GRADIENT_ACCUMULATION_STEPS in the environment would divide every loss
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
        )
    accelerator.state.fsdp_plugin = plugin  # accelerate sets it on GPUs only
    if run.torch_num_threads is not None:
        torch.set_num_threads(run.torch_num_threads)  # after accelerate, which sets its own number
    leave_out_cudnn(accelerator.device)
    if precision.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    return Runtime(
        device=accelerator.device,
        precision=resolve_precision(precision, accelerator.device),
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        is_sharded=plugin is not None and accelerator.num_processes > 1,
        zero_stage=zero_stage() if accelerator.num_processes > 1 else 0,
        _accelerator=accelerator,
    )


def find_device(run: RunOptions) -> torch.device:
    """The accelerator, unless there is none or `force_cpu` is set."""
    accelerator = None if run.force_cpu else torch.accelerator.current_accelerator(check_available=True)
    return accelerator or torch.device("cpu")


def _fsdp_plugin() -> Any:
    """FSDP as accelerate's config file sets it; the model names the blocks that are sharded as a unit."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    plugin = FullyShardedDataParallelPlugin(cpu_ram_efficient_loading=False)
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    plugin.transformer_cls_names_to_wrap = None  # `_no_split_modules` of the model
    return plugin


@contextmanager
def _without_sync(set_sync: Callable[[bool], None]) -> Iterator[None]:
    set_sync(False)
    try:
        yield
    finally:
        set_sync(True)


@contextmanager
def explain_lost_ranks() -> Iterator[None]:
    """Within it, failures because another process of the run has ended raise LostRankError."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in LOST_RANK_ERRORS):
            raise
        raise LostRankError(
            "Another process of this run has ended, so this one stops too. Its error is printed above, with its number,"
            " or in its own file in OUTPUT_DIR/logs. The last checkpoint is complete."
        ) from error


def resolve_precision(precision: PrecisionOptions, device: torch.device) -> PrecisionOptions:
    """`precision` with `mixed_precision` resolved: as set, otherwise bf16 if `device` supports it natively.

    Raises ConfigError if `device` does not support the precision.
    """
    if precision.mixed_precision is None:
        precision = replace(precision, mixed_precision="bf16" if computes_bf16(device) else "no")
    if problems := check_device_support(device, precision):
        raise ConfigError(problems)
    return precision


def computes_bf16(device: torch.device) -> bool:
    """Whether `device` gains from bf16.

    NVIDIA GPUs do from Ampere on, and comparable AMD GPUs. Not Apple's GPUs, for which the quickstart sets `no`. CPUs
    do with AVX512-BF16 or AMX, which save a quarter of a step (measured); others emulate bf16 slowly.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
