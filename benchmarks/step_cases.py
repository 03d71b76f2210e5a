"""The steps that `benchmarks.train_step` measures: the trainer's own, and the plain loop of diffusers' example."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from helpers.config.options.finetune import FullOptions
from helpers.config.options.model import LoraOptions
from helpers.config.options.speed import SpeedOptions
from helpers.config.options.training import ObjectiveOptions, OptimizerOptions, RunOptions
from helpers.dataloader.types import Position, TrainBatch
from helpers.models.family import ModelComponents
from helpers.models.quantization import UNQUANTIZED, base_dtype, layers_to_quantize, quantize
from helpers.models.registry import families
from helpers.models.sd3.memory.architecture import KNOWN, Transformer
from helpers.models.sd3.transformer import NEVER_QUANTIZED, predict, target_modules
from helpers.training.distributed.runtime import Runtime
from helpers.training.optim.optimizer_step import StandardStep
from helpers.training.performance import apply_performance_options
from helpers.training.step import StepContext, forward_backward

SMALL = Transformer(layers=4, heads=6, head_width=64, text_width=512, pooled_width=256, positions_per_edge=64)
MODELS = {
    "small": SMALL,
    "SD3 medium": KNOWN["SD3 medium"].transformer,
    "SD3.5 large": KNOWN["SD3.5 large"].transformer,
}
TEXT_TOKENS = 154


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured. interval: of gradient checkpointing, 0 without; offload: blocks that wait elsewhere."""

    model: str
    kind: str
    pixels: int
    batch: int
    precision: str = UNQUANTIZED
    compiler: str = "no"
    interval: int = 1
    offload: int = 0


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
    denoiser.pos_embed.to(dtype)  # its table of positions is made in fp32; loading casts it as all else
    layers = layers_to_quantize(denoiser, case.precision, keep=NEVER_QUANTIZED)
    quantize(denoiser, case.precision, layers=layers)
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
    from helpers.models.adapters.registry import build_trainable
    from helpers.training.optim.optimizers import make_optimizer

    family, options = families()["sd3"], OptimizerOptions()
    said = replace(runtime.precision, base_model_precision=case.precision)
    precision = said.for_training(model_type=case.kind, optimizer=options.optimizer)
    denoiser = denoiser_of(case, runtime, dtype=base_dtype(precision))
    trained = build_trainable(
        denoiser,
        model_type=case.kind,
        lora=LoraOptions(),
        full=FullOptions(),
        family=family,
        parts=cast(ModelComponents, None),  # which only writing a result asks for
        seed=0,
    )
    speed = SpeedOptions(
        training_dynamo_backend=case.compiler,
        gradient_checkpointing_interval=max(case.interval, 1),
        offload_blocks=case.offload,
    )
    run = RunOptions(gradient_checkpointing=case.interval > 0)
    apply_performance_options(denoiser, speed, run=run, family=family, device=runtime.device)
    optimizer = make_optimizer(options, weights=trained.weights, seed=0)
    step_context = StepContext(
        runtime=runtime,
        denoiser=runtime.prepare(denoiser.train()),
        weights=trained.weights,
        predict=family.predict,
        as_base=trained.as_base,
        objective=ObjectiveOptions(),
        sigma_edges=(0.0, 1.0),
    )
    stepping = StandardStep(runtime, weights=trained.weights, optimizer=optimizer, max_grad_norm=1.0)
    batch = batch_of(case)

    def step() -> object:
        stepping.begin(1e-4)
        losses = forward_backward(step_context, batch, share=1.0, seeded=False, backward=stepping.backward)
        found = torch.stack([stepping.gradient_norm(), losses.mean()]).tolist()
        stepping.finish()
        return found

    return step


def plain_step(case: Case, runtime: Runtime) -> Callable[[], object]:
    """A step as diffusers' example takes it: see the module's first words. Quantized bases are not among it."""
    bf16 = runtime.precision.mixed_precision == "bf16"
    dtype = torch.bfloat16 if bf16 and case.kind == "lora" else torch.float32
    denoiser = denoiser_of(case, runtime, dtype=dtype)
    weights = moving(denoiser, kind=case.kind)
    cast(Any, denoiser).enable_gradient_checkpointing()
    denoiser.train()
    optimizer = torch.optim.AdamW(weights, lr=1e-4, weight_decay=1e-2)
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
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def moving(denoiser: nn.Module, *, kind: str) -> list[nn.Parameter]:
    """What the example trains: a LoRA as peft alone makes it, or everything, in fp32."""
    if kind == "full":
        return list(denoiser.requires_grad_(True).parameters())
    from peft import LoraConfig

    lora = LoraOptions()
    modules = target_modules(denoiser, lora.lora_target)
    cast(Any, denoiser).add_adapter(LoraConfig(r=lora.lora_rank, lora_alpha=lora.alpha, target_modules=modules))  # type: ignore[arg-type]
    weights = [weight for weight in denoiser.parameters() if weight.requires_grad]
    for weight in weights:
        weight.data = weight.data.float()
    return weights


def operations_of(case: Case) -> int:
    """Floating point operations of a forward and a backward pass, counted on shapes alone; nothing is recomputed."""
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    with torch.device("meta"):
        denoiser: Any = SD3Transformer2DModel(**config_of(MODELS[case.model]))
    assert denoiser.num_parameters() == MODELS[case.model].parameters
    moving(denoiser, kind=case.kind)
    denoiser.to("meta")
    batch = batch_of(case)
    given: Sequence[Tensor] = (batch.latents, batch.sigmas, batch.prompt_embeds, batch.pooled)
    with FlopCounterMode(display=False) as counter:
        predict(denoiser, *(tensor.to("meta") for tensor in given)).sum().backward()
    return counter.get_total_flops()
