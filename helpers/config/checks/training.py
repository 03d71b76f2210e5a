"""What cannot be trained together: the kind of training, its dtype and how its steps are taken."""

from collections.abc import Iterator
from pathlib import Path

from helpers.config.checks.paths import Wrong
from helpers.config.optimizers import FUSABLE_OPTIMIZERS, KINDS
from helpers.config.train_config import RunConfig


def check_training(config: RunConfig) -> Iterator[Wrong]:
    """Every choice that another one rules out."""
    if config.model.model_type == "full":
        yield from _number_formats(config)
        yield from _of_a_lora(config)
    else:
        yield from _for_full_only(config)
    if config.lora.lora_type == "lycoris":
        yield from _lycoris(config)
    yield from _start(config)
    yield from _optimizer(config)
    if config.text.train_text_encoder:
        yield from _text_encoders(config)
    if config.optimizer.fused_backward:
        yield from _fused_backward(config)
    if config.speed.offload_blocks:
        yield from _offload_blocks(config)


def _for_full_only(config: RunConfig) -> Iterator[Wrong]:
    for name, said in vars(config.full).items():
        if said not in ("", "none"):
            reason = f"it chooses among the model's own weights, and model_type={config.model.model_type} moves none"
            yield name, said, reason, "say MODEL_TYPE=full, or choose with LORA_TARGET"


def _number_formats(config: RunConfig) -> Iterator[Wrong]:
    precision, optimizer = config.precision, config.optimizer.optimizer
    if precision.base_model_precision != "no_change":
        reason = "MODEL_TYPE=full trains the model's own weights, and quantized ones cannot be moved"
        fix = "say no_change, or MODEL_TYPE=lora; to save memory, OPTIMIZER=adamw_bf16 holds the weights in bf16"
        yield "base_model_precision", precision.base_model_precision, reason, fix
    if precision.base_model_default_dtype == "bf16" and optimizer != "adamw_bf16":
        reason = f"{optimizer} would round most of each step away: bf16 keeps 8 bits of a weight"
        fix = "leave it out to train in fp32, or say OPTIMIZER=adamw_bf16, which rounds on average right"
        yield "base_model_default_dtype", "bf16", reason, fix


def _start(config: RunConfig) -> Iterator[Wrong]:
    lora = config.lora
    try:
        _ = lora.ranks
    except ValueError:
        fix = "say attn.to_q=32,transformer_blocks.0=8"
        yield "lora_ranks", lora.lora_ranks, "it is no comma list of names with a rank each", fix
    kind, others = lora.lora_init_type, {"use_dora": lora.use_dora, "init_lora": bool(lora.init_lora)}
    if kind in ("pissa", "olora", "loftq") and (other := next((name for name, said in others.items() if said), None)):
        yield "lora_init_type", kind, f"it does not go with {other.upper()}", "say default, or leave the other out"
    if kind == "loftq" and config.precision.base_model_precision == "no_change":
        reason = "it begins at what quantizing takes from the weights, and BASE_MODEL_PRECISION=no_change takes nothing"
        yield "lora_init_type", kind, reason, "say BASE_MODEL_PRECISION=int4-quanto or another level, or default"
    if lora.lora_type == "lycoris" and (kind != "default" or lora.init_lora):
        name = "lora_init_type" if kind != "default" else "init_lora"
        value = str(getattr(lora, name))
        yield name, value, "it belongs to LORA_TYPE=standard", "leave it out, or say LORA_TYPE=standard"
    if lora.init_lora and not Path(lora.init_lora).expanduser().is_file():
        yield "init_lora", lora.init_lora, "there is no such file", "name a .safetensors file of a LoRA"


def _lycoris(config: RunConfig) -> Iterator[Wrong]:
    if not config.lora.lycoris_config:
        fix = "say LYCORIS_CONFIG, a copy of config/lycoris_config.json.example, or LORA_TYPE=standard"
        yield "lycoris_config", "", "LORA_TYPE=lycoris needs a file that says which algorithm sits where", fix
    for name in ("use_dora", "use_rslora"):
        if getattr(config.lora, name):
            yield name, "true", "it belongs to LORA_TYPE=standard", "leave it out, or say LORA_TYPE=standard"


def _optimizer(config: RunConfig) -> Iterator[Wrong]:
    kind = KINDS[config.optimizer.optimizer]
    if not kind.is_installed:
        reason = f"it needs {kind.package}, which is not installed here"
        yield "optimizer", kind.name, reason, f"run: pip install {kind.package}; or say OPTIMIZER=adamw"
    if kind.is_schedule_free and config.ema.use_ema:
        reason = f"{kind.name} keeps an average of the weights already, and that is the result"
        yield "use_ema", "true", reason, "leave it out, or say OPTIMIZER=adamw"


def _fused_backward(config: RunConfig) -> Iterator[Wrong]:
    optimizer = config.optimizer
    if optimizer.optimizer not in FUSABLE_OPTIMIZERS:
        reason = f"it moves each weight at once, and {optimizer.optimizer} has to move all of them together"
        yield "fused_backward", "true", reason, f"say OPTIMIZER={' or '.join(FUSABLE_OPTIMIZERS)}"
    if optimizer.max_grad_norm > 0:
        reason = f"shortening gradients to MAX_GRAD_NORM={optimizer.max_grad_norm:g} needs all of them at once"
        yield "fused_backward", "true", reason, "say MAX_GRAD_NORM=0"
    if config.run.gradient_accumulation_steps > 1:
        reason = "it moves the weights after each forward pass, and several are asked for"
        yield "fused_backward", "true", reason, "say GRADIENT_ACCUMULATION_STEPS=1, and a larger TRAIN_BATCH_SIZE"


def _of_a_lora(config: RunConfig) -> Iterator[Wrong]:
    for name in ("export_comfyui", "export_merged"):
        if getattr(config.export, name):
            yield name, "true", "it is of a LoRA, and MODEL_TYPE=full trains none", "leave it out"


def _text_encoders(config: RunConfig) -> Iterator[Wrong]:
    if config.model.model_type != "lora":
        reason = f"text encoders learn a LoRA, and MODEL_TYPE={config.model.model_type} leaves no file to put it in"
        yield "train_text_encoder", "true", reason, "say false, or MODEL_TYPE=lora"
    if config.lora.lora_type == "lycoris":
        reason = "the file of a LORA_TYPE=lycoris adapter has no place for the LoRA of text encoders"
        yield "train_text_encoder", "true", reason, "say false, or LORA_TYPE=standard"
    optimizer = config.optimizer
    if optimizer.text_encoder_lr and KINDS[optimizer.optimizer].is_learning_rate_free:
        reason = f"{optimizer.optimizer} finds one rate for all that is trained"
        yield "text_encoder_lr", f"{optimizer.text_encoder_lr:g}", reason, "leave it out, or say OPTIMIZER=adamw"


def _offload_blocks(config: RunConfig) -> Iterator[Wrong]:
    said = str(config.speed.offload_blocks)
    if config.model.model_type == "full":
        reason = "with MODEL_TYPE=full every block moves, and one that is away cannot"
        yield "offload_blocks", said, reason, "say 0, or MODEL_TYPE=lora; OPTIMIZER=adamw_bf16 saves memory, too"
    if not config.run.gradient_checkpointing:
        reason = "the backward pass would need every block there at once, without gradient checkpointing"
        yield "offload_blocks", said, reason, "say USE_GRADIENT_CHECKPOINTING=true"
    elif config.speed.gradient_checkpointing_interval > 1:
        interval = f"GRADIENT_CHECKPOINTING_INTERVAL={config.speed.gradient_checkpointing_interval}"
        reason = f"blocks that {interval} does not compute again would have to stay"
        yield "offload_blocks", said, reason, "say GRADIENT_CHECKPOINTING_INTERVAL=1"
