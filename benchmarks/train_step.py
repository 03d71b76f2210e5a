"""A training step of ours beside the plain loop that diffusers' example takes, in one run on one machine.

`python -m benchmarks.train_step` runs a small model on a processor, and SD3 medium's and 3.5 large's shapes with random
weights on a CUDA device; every argument narrows it down, such as `--models "SD3 medium" --pixels 1024 --batches 8
--kinds lora --compilers inductor --precisions no_change`. It prints seconds of a step, pictures a second, the share of
the matrix products per second that were measured in the same run (recomputing not counted), peak memory, and how many
times as quick as the plain loop a step is: bf16 autocast, PEFT, AdamW, checkpointing.
"""

import argparse
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.batches.types import Position, TrainBatch
from helpers.config.options.model import LoraOptions, PrecisionOptions
from helpers.config.options.speed import SpeedOptions
from helpers.config.options.trained import FullOptions
from helpers.config.options.training import ObjectiveOptions, OptimizerOptions, RunOptions
from helpers.models.adapters import attach_lora
from helpers.models.precision import AS_IT_IS, base_dtype, layers_to_quantise, quantise
from helpers.models.protocols import ModelParts
from helpers.models.registry import families
from helpers.models.sd3.architecture import KNOWN, Transformer
from helpers.models.sd3.denoiser import NEVER_QUANTISED, predict, target_modules
from helpers.reporting.peak_memory import PeakMemory
from helpers.training.runtime import Runtime, open_runtime
from helpers.training.speed import speed_up
from helpers.training.step import Learner, forward_backward
from helpers.training.stepping import AtTheEnd

SMALL = Transformer(layers=4, heads=6, head_width=64, text_width=512, pooled_width=256, positions_per_edge=64)
MODELS = {
    "small": SMALL,
    "SD3 medium": KNOWN["SD3 medium"].transformer,
    "SD3.5 large": KNOWN["SD3.5 large"].transformer,
}
TEXT_TOKENS = 154
WARM_UP_STEPS = 3
PLAIN = "plain loop"


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured."""

    model: str
    kind: str
    pixels: int
    batch: int
    precision: str
    compiler: str


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of a step (the median), and the most memory in bytes."""

    seconds: float
    peak_bytes: int


def denoiser_of(case: Case, runtime: Runtime, *, dtype: torch.dtype) -> nn.Module:
    """A transformer with random weights, frozen, held as the case asks."""
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    shape = MODELS[case.model]
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with runtime.device:
            denoiser: Any = SD3Transformer2DModel(**config_of(shape))
    finally:
        torch.set_default_dtype(before)
    layers = layers_to_quantise(denoiser, case.precision, device=runtime.device, keep=NEVER_QUANTISED)
    quantise(denoiser, case.precision, layers=layers)
    return denoiser.to(runtime.device).requires_grad_(False)


def config_of(shape: Transformer) -> dict[str, Any]:
    """The transformer's shape in diffusers' words."""
    return {
        "num_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "attention_head_dim": shape.head_width,
        "joint_attention_dim": shape.text_width,
        "caption_projection_dim": shape.width,
        "pooled_projection_dim": shape.pooled_width,
        "pos_embed_max_size": shape.positions_per_edge,
        "dual_attention_layers": shape.dual_attention_layers,
        "qk_norm": "rms_norm" if shape.qk_norm else None,
        "sample_size": 128,
    }


def batch_of(case: Case) -> TrainBatch:
    """Numbers of the right shapes."""
    shape, edge = MODELS[case.model], case.pixels // 8
    latents = torch.randn(case.batch, 16, edge, edge)
    return TrainBatch(
        position=Position(),
        latents=latents,
        noise=torch.randn_like(latents),
        sigmas=torch.rand(case.batch).clamp(min=0.01),
        prompt_embeds=torch.randn(case.batch, TEXT_TOKENS, shape.text_width).bfloat16(),
        pooled=torch.randn(case.batch, shape.pooled_width).bfloat16(),
        paths=("",) * case.batch,
        dropout_seed=0,
    )


def our_step(case: Case, runtime: Runtime) -> Callable[[], object]:
    """A step as the trainer takes it, of its own parts."""
    from helpers.models.kinds import make_trained
    from helpers.training.optimisers import make_optimiser

    family, optimizer = families()["sd3"], OptimizerOptions()
    said = replace(runtime.precision, base_model_precision=case.precision)
    precision = said.of_trained(model_type=case.kind, optimizer=optimizer.optimizer)
    denoiser = denoiser_of(case, runtime, dtype=base_dtype(precision))
    trained = make_trained(
        denoiser,
        model_type=case.kind,
        lora=LoraOptions(),
        full=FullOptions(),
        family=family,
        parts=cast(ModelParts, None),  # which only writing a result asks for
        seed=0,
    )
    speed = SpeedOptions(training_dynamo_backend=case.compiler)
    speed_up(denoiser, speed, run=RunOptions(), family=family, device=runtime.device)
    optimiser = make_optimiser(optimizer, weights=trained.weights, seed=0)
    learner = Learner(
        runtime=runtime,
        denoiser=runtime.prepare(denoiser.train()),
        weights=trained.weights,
        predict=family.predict,
        as_base=trained.as_base,
        objective=ObjectiveOptions(),
    )
    stepping = AtTheEnd(runtime, weights=trained.weights, optimiser=optimiser, longest_gradient=1.0)
    batch = batch_of(case)

    def step() -> object:
        stepping.begin(1e-4)
        losses = forward_backward(learner, batch, share=1.0, seeded=False, backward=stepping.backward)
        found = torch.stack([stepping.gradient_norm(), losses.mean()]).tolist()
        stepping.finish()
        return found

    return step


def plain_step(case: Case, runtime: Runtime) -> Callable[[], object]:
    """A step as diffusers' example takes it: see the module's first words. Quantised bases are not among it."""
    bf16 = runtime.precision.mixed_precision == "bf16"
    dtype = torch.bfloat16 if bf16 and case.kind == "lora" else torch.float32
    denoiser = denoiser_of(case, runtime, dtype=dtype)
    weights = moving(denoiser, kind=case.kind)
    cast(Any, denoiser).enable_gradient_checkpointing()
    denoiser.train()
    optimiser = torch.optim.AdamW(weights, lr=1e-4, weight_decay=1e-2)
    batch = batch_of(case)

    def step() -> object:
        latents, noise, sigmas = (each.to(runtime.device) for each in (batch.latents, batch.noise, batch.sigmas))
        at = sigmas.view(-1, 1, 1, 1)
        with runtime.autocast():
            predicted = predict(
                denoiser,
                (1 - at) * latents + at * noise,
                sigmas,
                batch.prompt_embeds.to(runtime.device),
                batch.pooled.to(runtime.device),
            )
        loss = (predicted.float() - (noise - latents)).square().mean()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return loss.item()

    return step


def moving(denoiser: nn.Module, *, kind: str) -> list[nn.Parameter]:
    """What is trained."""
    if kind == "full":
        return list(denoiser.requires_grad_(True).parameters())
    lora = LoraOptions()
    return list(attach_lora(denoiser, lora=lora, modules=target_modules(denoiser, lora.lora_target), seed=0).values())


def measure(step: Callable[[], object], device: torch.device, *, steps: int) -> Measured:
    """Take so many steps after those that warm up; each ends with numbers that have arrived."""
    for _ in range(WARM_UP_STEPS):
        step()
    peak = PeakMemory()
    seconds = []
    for _ in range(steps):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return Measured(
        seconds=statistics.median(seconds),
        peak_bytes=peak.device_bytes() if device.type == "cuda" else peak.resident_bytes(),
    )


def products_per_second(device: torch.device, dtype: torch.dtype) -> float:
    """Floating point operations a second of the largest matrix product that is quick: the best of several."""
    edge = 8192 if device.type == "cuda" else 1024
    one, other = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))
    times = []
    for _ in range(12):
        started = time.perf_counter()
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return 2 * edge**3 / min(times)


def operations_of(case: Case) -> int:
    """Floating point operations of a forward and a backward pass, counted on shapes alone; nothing is recomputed."""
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    with torch.device("meta"):
        denoiser: Any = SD3Transformer2DModel(**config_of(MODELS[case.model]))
    moving(denoiser, kind=case.kind)
    denoiser.to("meta")
    batch = batch_of(case)
    given: Sequence[Tensor] = (batch.latents, batch.sigmas, batch.prompt_embeds, batch.pooled)
    with FlopCounterMode(display=False) as counter:
        predict(denoiser, *(tensor.to("meta") for tensor in given)).sum().backward()
    return counter.get_total_flops()


def row(name: str, case: Case, found: Measured, *, operations: int, peak: float, plain: Measured) -> str:
    figures = (
        f"{found.seconds:>8.3f} {case.batch / found.seconds:>9.2f} {operations / found.seconds / peak:>6.1%}"
        f" {found.peak_bytes / 1e9:>8.2f} {plain.seconds / found.seconds:>8.2f}"
    )
    return f"{case.model:<12} {case.kind:<5} {case.pixels:>5} {case.batch:>3} {name:<24} {figures}"


def compare(case: Case, variants: Sequence[Case], runtime: Runtime, *, steps: int, peak: float) -> None:
    """Measure the plain loop and each variant, and print a row of each."""
    operations = operations_of(case)
    plain = released(lambda: measure(plain_step(case, runtime), runtime.device, steps=steps))
    print(row(PLAIN, case, plain, operations=operations, peak=peak, plain=plain), flush=True)
    for variant in variants:
        name = f"{variant.precision} {'' if variant.compiler == 'no' else 'compiled'}".strip()
        try:
            found = released(lambda each=variant: measure(our_step(each, runtime), runtime.device, steps=steps))
        except torch.OutOfMemoryError:
            print(
                f"{case.model:<12} {case.kind:<5} {case.pixels:>5} {case.batch:>3} {name:<24} out of memory", flush=True
            )
            continue
        print(row(name, case, found, operations=operations, peak=peak, plain=plain), flush=True)


def released(work: Callable[[], Measured]) -> Measured:
    """Do `work`, and give back what it held."""
    try:
        return work()
    finally:
        gc.collect()
        torch._dynamo.reset()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def arguments() -> argparse.Namespace:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--models", nargs="+", choices=MODELS, default=["SD3 medium", "SD3.5 large"] if cuda else ["small"]
    )
    parser.add_argument("--kinds", nargs="+", choices=("lora", "full"), default=["lora", "full"])
    parser.add_argument("--pixels", nargs="+", type=int, default=[512, 1024] if cuda else [256])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 8] if cuda else [1, 4])
    levels = (AS_IT_IS, "int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto")
    parser.add_argument("--precisions", nargs="+", choices=levels, default=list(levels) if cuda else [AS_IT_IS])
    parser.add_argument("--compilers", nargs="+", choices=("no", "inductor"), default=["no", "inductor"])
    parser.add_argument("--mixed-precision", choices=("no", "bf16"))
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--threads", type=int)
    return parser.parse_args()


def main() -> None:
    said = arguments()
    runtime = open_runtime(
        PrecisionOptions(mixed_precision=said.mixed_precision), RunOptions(torch_num_threads=said.threads)
    )
    dtype = torch.bfloat16 if runtime.precision.mixed_precision == "bf16" else torch.float32
    peak = products_per_second(runtime.device, dtype)
    print(
        f"{runtime.device.type}, {dtype}: {peak / 1e12:.2f} Tflop/s in matrix products; medians of {said.steps} steps"
    )
    titles = f"{'s/step':>8} {'pict/s':>9} {'peak':>6} {'GB':>8} {'x plain':>8}"
    print(f"{'model':<12} {'kind':<5} {'px':>5} {'B':>3} {'':<24} {titles}")
    for model, kind, pixels, batch in itertools.product(said.models, said.kinds, said.pixels, said.batches):
        case = Case(model=model, kind=kind, pixels=pixels, batch=batch, precision=AS_IT_IS, compiler="no")
        levels = said.precisions if kind == "lora" else [AS_IT_IS]
        variants = [
            Case(**{**asdict(case), "precision": level, "compiler": compiler})
            for level, compiler in itertools.product(levels, said.compilers)
        ]
        compare(case, variants, runtime, steps=said.steps, peak=peak)


if __name__ == "__main__":
    main()
