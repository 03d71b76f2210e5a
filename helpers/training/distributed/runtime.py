"""The engine: device, processes and dtypes; the only module that knows accelerate.

It is opened before anything is encoded, since caching needs a device and ranks too; the model joins it later. With one
process nothing is wrapped and every call is PyTorch's own.
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

# What PyTorch's engines say where a process that they wait for is gone.
SIGNS_OF_LOSS = ("closed by peer", "reset by peer", "Broken pipe", "remote process exited", "got 0 bytes")
# A rank may wait for another that scans or encodes for hours.
LONGEST_WAIT = timedelta(days=1)


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """An opened engine. It is the run's `helpers.ranks.Ranks`.

    precision: with `mixed_precision` resolved for the device.
    divides: whether each process holds a part of the model's weights only, as FSDP2 has it.
    zero_stage: of DeepSpeed's ZeRO, which divides the optimizer's memory (1) and the gradients (2); 0 for neither.
    """

    device: torch.device
    precision: PrecisionOptions
    rank: int
    world_size: int
    is_sharded: bool
    zero_stage: int
    _accelerator: Any

    def barrier(self) -> None:
        """Return once every process has come here."""
        self._accelerator.wait_for_everyone()

    def prepare(self, denoiser: nn.Module) -> nn.Module:
        """What the forward pass is called on: `denoiser` itself, or its wrapper that shares gradients among ranks.

        Each rank has loaded the same frozen weights, which are not sent around (and, quantized, could not be).
        """
        if self.world_size == 1 or self.is_sharded:
            return denoiser
        frozen = [name for name, weight in denoiser.named_parameters() if not weight.requires_grad]
        buffers = [name for name, _ in denoiser.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(denoiser, frozen + buffers)
        return self._accelerator.prepare_model(denoiser, device_placement=False)  # it is where it should be

    def shard(self, denoiser: nn.Module) -> None:
        """Leave this process its part of every weight; those of a block come together while the block computes.

        Its parameters are others afterwards. All processes hold the same whole weights before.
        """
        from accelerate.utils.fsdp_utils import fsdp2_prepare_model

        fsdp2_prepare_model(self._accelerator, denoiser)

    @contextmanager
    def gathered_weights(self, denoiser: nn.Module) -> Iterator[None]:
        """Within it each process holds all weights, as plain tensors, and a forward pass needs no other process.

        All processes come here and leave; `denoiser` is the bare module. Not for backward passes.
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
        """Within it, backward passes of the prepared `denoiser` add up gradients on each rank without sharing them."""
        if self.is_sharded:
            return _keeping(denoiser.set_requires_gradient_sync)
        if self.zero_stage:
            return _keeping(denoiser.set_gradient_accumulation_boundary)
        return nullcontext() if self.world_size == 1 else self._accelerator.no_sync(denoiser)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those of the weights."""
        self._accelerator.backward(loss)

    def mean_over_ranks(self, values: Tensor) -> Tensor:
        """The mean of each rank's `values`, the same on all of them."""
        return values if self.world_size == 1 else self._accelerator.reduce(values, reduction="mean")

    def shutdown(self) -> None:
        """Return once every process is done with its work, which cannot speak to the others afterwards.

        Launchers end all processes where one has gone, and the first may still be writing.
        """
        if self.world_size > 1:
            self.barrier()
            self._accelerator.end_training()

    def on_any_rank(self, flag: bool) -> bool:
        """Whether `flag` is set on one rank at least, the same answer on all of them."""
        if self.world_size == 1:
            return flag
        return bool(self._accelerator.reduce(torch.tensor(float(flag), device=self.device)).item())

    def gather_objects(self, words: list[str]) -> list[str]:
        """The `words` of all ranks, the same on all of them."""
        if self.world_size == 1:
            return words
        from accelerate.utils import gather_object

        return gather_object(words)

    def clip_gradients(self, weights: Iterable[nn.Parameter], *, longest: float) -> Tensor:
        """Shorten the gradients, taken as one vector, to `longest` (0: leave them); their length before, fp32 []."""
        weights = list(weights)
        if longest > 0:
            norm = self._accelerator.clip_grad_norm_(weights, longest)
        else:
            norm = nn.utils.get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        return full_tensor(norm).to(self.device)


def open_runtime(precision: PrecisionOptions, run: RunOptions) -> Runtime:
    """Find the device and the other processes, and set PyTorch up for them.

    Raises ConfigError where there is a graphics card that PyTorch cannot use, unless `force_cpu` is set.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.utils import GradientAccumulationPlugin

    on_processor = find_device(run).type == "cpu"
    if on_processor and not run.force_cpu:
        check_no_card_is_unused()
    plugin = _fsdp_plugin() if is_fsdp() else None
    with hide_deepspeed_from_accelerate():
        accelerator = Accelerator(
            cpu=on_processor,  # without it, processes without a GPU would not find each other
            dynamo_backend="no",  # ours compiles block by block; accelerate would compile what is compiled once more
            mixed_precision="no",  # ours is `autocast`, so that one process and several compute alike
            fsdp_plugin=plugin,
            # unsaid, ACCELERATE_GRADIENT_ACCUMULATION_STEPS in the environment would divide every loss
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
            kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
        )
    accelerator.state.fsdp_plugin = plugin  # which accelerate itself does on GPUs only
    if run.torch_num_threads is not None:
        torch.set_num_threads(run.torch_num_threads)  # after the engine, which sets a number of its own
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
    """What accelerate's file says of FSDP; the model itself names the blocks that stay together."""
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    plugin = FullyShardedDataParallelPlugin(cpu_ram_efficient_loading=False)
    plugin.auto_wrap_policy = transformer_auto_wrap_policy
    plugin.transformer_cls_names_to_wrap = None  # `_no_split_modules` of the model
    return plugin


@contextmanager
def _keeping(share: Callable[[bool], None]) -> Iterator[None]:
    share(False)
    try:
        yield
    finally:
        share(True)


@contextmanager
def explain_lost_ranks() -> Iterator[None]:
    """Within it, what fails because another process of the run has gone raises LostRankError."""
    try:
        yield
    except RuntimeError as error:
        if not any(sign in str(error) for sign in SIGNS_OF_LOSS):
            raise
        raise LostRankError(
            "Another process of this run has ended, and so this one does. What it said stands above, with its number,"
            " or in its own file in OUTPUT_DIR/logs. The last checkpoint stands."
        ) from error


def resolve_precision(precision: PrecisionOptions, device: torch.device) -> PrecisionOptions:
    """`precision` with `mixed_precision` said: as asked, else bf16 where `device` computes it natively.

    Raises ConfigError where `device` cannot compute what is asked for.
    """
    if precision.mixed_precision is None:
        precision = replace(precision, mixed_precision="bf16" if computes_bf16(device) else "no")
    if problems := check_device_support(device, precision):
        raise ConfigError(problems)
    return precision


def computes_bf16(device: torch.device) -> bool:
    """Whether bf16 is worth it on `device`.

    NVIDIA from Ampere on and AMD's like. Not Apple's GPUs, where the quickstart asks for `no`. A processor only with
    instructions for it (AVX512-BF16 or AMX), which were measured to save a quarter of a step; others emulate it slowly.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
