"""Checks of training options that exclude each other: type of training, dtype, adapter and optimizer."""

from collections.abc import Iterator
from pathlib import Path

from helpers.config.checks.paths import Wrong
from helpers.config.optimizers import FUSABLE_OPTIMIZERS, KINDS
from helpers.config.train_config import RunConfig


def check_training(config: RunConfig) -> Iterator[Wrong]:
    """Every option that another one rules out."""
    if config.model.model_type == "full":
        yield from _full_dtypes(config)
        yield from _lora_exports(config)
    else:
        yield from _full_only(config)
    if config.lora.lora_type == "lycoris":
        yield from _lycoris(config)
    yield from _lora_start(config)
    yield from _optimizer(config)
    if config.text.train_text_encoder:
        yield from _text_encoders(config)
    if config.optimizer.fused_backward:
        yield from _fused_backward(config)
    if config.speed.offload_blocks:
        yield from _offload_blocks(config)


def _full_only(config: RunConfig) -> Iterator[Wrong]:
    for name, value in vars(config.full).items():
        if value not in ("", "none"):
            reason = f"it selects weights of the model, and MODEL_TYPE={config.model.model_type} does not train them"
            yield name, value, reason, "set MODEL_TYPE=full, or select layers with LORA_TARGET"


def _full_dtypes(config: RunConfig) -> Iterator[Wrong]:
    precision, optimizer = config.precision, config.optimizer.optimizer
    if precision.base_model_precision != "no_change":
        reason = "MODEL_TYPE=full trains the model's own weights, and quantized weights cannot be trained"
        fix = "use no_change, or MODEL_TYPE=lora; to save memory, OPTIMIZER=adamw_bf16 keeps the weights in bf16"
        yield "base_model_precision", precision.base_model_precision, reason, fix
    if precision.base_model_default_dtype == "bf16" and optimizer != "adamw_bf16":
        reason = f"{optimizer} would lose most of each update to rounding: bf16 keeps 8 bits of a weight"
        fix = "leave it out to train in fp32, or set OPTIMIZER=adamw_bf16, which rounds stochastically"
        yield "base_model_default_dtype", "bf16", reason, fix


def _lora_start(config: RunConfig) -> Iterator[Wrong]:
    lora = config.lora
    try:
        _ = lora.ranks
    except ValueError:
        fix = "use attn.to_q=32,transformer_blocks.0=8"
        yield "lora_ranks", lora.lora_ranks, "it is not a comma-separated list of names with a rank each", fix
    kind, others = lora.lora_init_type, {"use_dora": lora.use_dora, "init_lora": bool(lora.init_lora)}
    if kind in ("pissa", "olora", "loftq") and (
        other := next((name for name, is_set in others.items() if is_set), None)
    ):
        yield (
            "lora_init_type",
            kind,
            f"it cannot be combined with {other.upper()}",
            "use default, or remove the other setting",
        )
    if kind == "loftq" and config.precision.base_model_precision == "no_change":
        reason = "it starts from the quantization error, and BASE_MODEL_PRECISION=no_change does not quantize"
        yield "lora_init_type", kind, reason, "set BASE_MODEL_PRECISION=int4-quanto or another level, or default"
    if lora.lora_type == "lycoris" and (kind != "default" or lora.init_lora):
        name = "lora_init_type" if kind != "default" else "init_lora"
        value = str(getattr(lora, name))
        yield name, value, "it is for LORA_TYPE=standard", "leave it out, or set LORA_TYPE=standard"
    if lora.init_lora and not Path(lora.init_lora).expanduser().is_file():
        yield "init_lora", lora.init_lora, "there is no such file", "name a .safetensors file of a LoRA"


def _lycoris(config: RunConfig) -> Iterator[Wrong]:
    if not config.lora.lycoris_config:
        fix = "set LYCORIS_CONFIG to a copy of config/lycoris_config.json.example, or set LORA_TYPE=standard"
        yield "lycoris_config", "", "LORA_TYPE=lycoris needs a file that sets the algorithm of each layer", fix
    for name in ("use_dora", "use_rslora"):
        if getattr(config.lora, name):
            yield name, "true", "it is for LORA_TYPE=standard", "leave it out, or set LORA_TYPE=standard"


def _optimizer(config: RunConfig) -> Iterator[Wrong]:
    kind = KINDS[config.optimizer.optimizer]
    if not kind.is_installed:
        reason = f"it needs {kind.package}, which is not installed"
        yield "optimizer", kind.name, reason, f"run: pip install {kind.package}; or set OPTIMIZER=adamw"
    if kind.is_schedule_free and config.ema.use_ema:
        reason = f"{kind.name} already averages the weights, and the average is the result"
        yield "use_ema", "true", reason, "leave it out, or set OPTIMIZER=adamw"


def _fused_backward(config: RunConfig) -> Iterator[Wrong]:
    optimizer = config.optimizer
    if optimizer.optimizer not in FUSABLE_OPTIMIZERS:
        reason = f"it updates each weight on its own, and {optimizer.optimizer} must update all of them together"
        yield "fused_backward", "true", reason, f"set OPTIMIZER={' or '.join(FUSABLE_OPTIMIZERS)}"
    if optimizer.max_grad_norm > 0:
        reason = f"clipping gradients to MAX_GRAD_NORM={optimizer.max_grad_norm:g} needs all gradients at once"
        yield "fused_backward", "true", reason, "set MAX_GRAD_NORM=0"
    if config.run.gradient_accumulation_steps > 1:
        reason = "it updates weights in each backward pass, and gradient accumulation takes several per step"
        yield "fused_backward", "true", reason, "set GRADIENT_ACCUMULATION_STEPS=1, and a larger TRAIN_BATCH_SIZE"


def _lora_exports(config: RunConfig) -> Iterator[Wrong]:
    for name in ("export_comfyui", "export_merged"):
        if getattr(config.export, name):
            yield name, "true", "it exports a LoRA, and MODEL_TYPE=full does not train one", "leave it out"


def _text_encoders(config: RunConfig) -> Iterator[Wrong]:
    if config.model.model_type != "lora":
        reason = f"it trains a LoRA, and MODEL_TYPE={config.model.model_type} has no LoRA file to save it in"
        yield "train_text_encoder", "true", reason, "use false, or MODEL_TYPE=lora"
    if config.lora.lora_type == "lycoris":
        reason = "the file of a LORA_TYPE=lycoris adapter cannot hold the LoRA of the text encoders"
        yield "train_text_encoder", "true", reason, "use false, or LORA_TYPE=standard"
    optimizer = config.optimizer
    if optimizer.text_encoder_lr and KINDS[optimizer.optimizer].is_learning_rate_free:
        reason = f"{optimizer.optimizer} finds one learning rate for all trainable parameters"
        yield "text_encoder_lr", f"{optimizer.text_encoder_lr:g}", reason, "leave it out, or set OPTIMIZER=adamw"


def _offload_blocks(config: RunConfig) -> Iterator[Wrong]:
    value = str(config.speed.offload_blocks)
    if config.model.model_type == "full":
        reason = "with MODEL_TYPE=full every block is trained, and an offloaded block cannot be"
        yield "offload_blocks", value, reason, "use 0, or MODEL_TYPE=lora; OPTIMIZER=adamw_bf16 also saves memory"
    if not config.run.gradient_checkpointing:
        reason = "without gradient checkpointing the backward pass needs every block on the device at once"
        yield "offload_blocks", value, reason, "set USE_GRADIENT_CHECKPOINTING=true"
    elif config.speed.gradient_checkpointing_interval > 1:
        interval = f"GRADIENT_CHECKPOINTING_INTERVAL={config.speed.gradient_checkpointing_interval}"
        reason = f"the blocks that {interval} does not recompute would have to stay on the device"
        yield "offload_blocks", value, reason, "set GRADIENT_CHECKPOINTING_INTERVAL=1"
