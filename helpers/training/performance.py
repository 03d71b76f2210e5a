"""Makes a model's steps faster or smaller, as configured, without changing the training result."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from helpers.config.checks.launcher import accelerate_dynamo_backend
from helpers.config.options.speed import SpeedOptions
from helpers.config.options.training import RunOptions
from helpers.dataloader.loader import BatchBuilder
from helpers.dataloader.types import Position
from helpers.errors import ConfigError, Problem, TrainingError
from helpers.models.family import ModelFamily
from helpers.models.performance.attention import can_attend, use_attention
from helpers.models.performance.compile import compile_blocks
from helpers.models.performance.offload import BlockOffloader, offload_activations
from helpers.models.quantization import base_dtype
from helpers.reporting.events import Notice
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter
from helpers.training.distributed.runtime import Runtime
from helpers.training.step import StepContext, draws_random_numbers, forward_backward

NOT_COMPILED = "no"


def check_attention(options: SpeedOptions, *, runtime: Runtime) -> None:
    """Raise ConfigError if the device does not have the attention kernel that is set."""
    precision, device = runtime.precision, runtime.device
    dtype = torch.bfloat16 if precision.mixed_precision == "bf16" else base_dtype(precision)
    if can_attend(options.attention, device=device, dtype=dtype):
        return
    dtype_name = str(dtype).removeprefix("torch.")
    reason = f"PyTorch has no such kernel for {dtype_name} on this device ({device.type})"
    fix = "do not set it: PyTorch then uses the fastest available"
    raise ConfigError([Problem(option="ATTENTION", value=options.attention, reason=reason, fix=fix)])


def apply_performance_options(
    denoiser: nn.Module, options: SpeedOptions, *, run: RunOptions, family: ModelFamily, device: torch.device
) -> None:
    """Change how `denoiser` computes, in place, after the adapter is attached; weight names stay the same."""
    if run.gradient_checkpointing:
        family.enable_checkpointing(denoiser, interval=options.gradient_checkpointing_interval)
    use_attention(denoiser, options.attention)
    blocks = family.blocks(denoiser)
    if options.offload_blocks:
        BlockOffloader(blocks[-options.offload_blocks :], device=device)
    if options.training_dynamo_backend != NOT_COMPILED:
        compile_blocks(blocks, backend=options.training_dynamo_backend)
    if options.offload_activations:
        offload_activations(denoiser)


def warm_up_compile(
    options: SpeedOptions, *, step_context: StepContext, source: BatchBuilder, reporter: Reporter
) -> None:
    """Compile everything that training needs, if set; no weight, gradient or mode changes.

    Uses the run's first batch, even when resuming: compiled code depends slightly on the sizes it first sees, and a
    resumed run must compute like an uninterrupted one. Raises TrainingError if the compiler fails.
    """
    if options.training_dynamo_backend == NOT_COMPILED:
        if (backend := accelerate_dynamo_backend()) != NOT_COMPILED:
            text = f"accelerate's own dynamo_backend={backend} has no effect; TRAINING_DYNAMO_BACKEND=inductor compiles"
            reporter.handle(Notice(level="warning", text=text))
        return
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    denoiser, runtime = step_context.denoiser, step_context.runtime
    batch = source.batch(Position())
    was_training = denoiser.training
    denoiser.train()
    seeded = draws_random_numbers(denoiser)
    try:
        with (
            stage(reporter, "compile the model", total=1, unit="models") as advance,
            torch.random.fork_rng(devices=[runtime.device] if runtime.device.type == "cuda" else []),
            runtime.no_sync(denoiser),
            _dropping_gradients(step_context),
        ):
            forward_backward(step_context, batch, share=1.0, seeded=seeded, backward=runtime.backward)
            advance()
    except (TorchDynamoException, InductorError) as error:
        raise TrainingError(
            f"The model cannot be compiled: {str(error).strip().splitlines()[0]}\n"
            "A C++ compiler (the package g++) is needed; TRAINING_DYNAMO_BACKEND=no trains without compiling."
        ) from error
    denoiser.train(was_training)


@contextmanager
def _dropping_gradients(step_context: StepContext) -> Iterator[None]:
    """Within it a backward pass frees each gradient at once."""

    def drop(weight: Tensor) -> None:
        weight.grad = None

    handles = [weight.register_post_accumulate_grad_hook(drop) for weight in step_context.weights.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
