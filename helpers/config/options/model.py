"""Which model to train, in which precision, and with which adapter."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.config.option import EMBEDDINGS, LATENTS, MAX_RANK, OnResume, option

QUANTO_LEVELS = ("no_change", "int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto")
WITHOUT = "none"
"""What `pretrained_t5_model_name_or_path` is set to for a model without T5."""

LORA_TARGETS = ("image-attention", "attention", "attention+mlp")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The base model and where its components come from."""

    model_type: str = option(
        "lora",
        choices=("lora", "full"),
        on_resume=OnResume.REFUSE,
        help="What to train: `lora` is a small adapter on the frozen model, `full` is the transformer itself.",
    )
    sd3: bool = option(
        True,
        env="STABLE_DIFFUSION_3",
        refused=(("false", "only Stable Diffusion 3 and 3.5 are supported so far"),),
        on_resume=OnResume.IGNORE,
        help="Train Stable Diffusion 3 or 3.5, the only model family so far. The version is read from the model's "
        "config.",
    )
    pretrained_model_name_or_path: str = option(
        "",
        env="MODEL_NAME",
        required=True,
        on_resume=OnResume.IGNORE,
        effect="a checkpoint resumes only if the model's weights are the same",
        help="Base model: a Hugging Face hub id, a folder in diffusers layout, or one `.safetensors` file in the "
        "original layout.",
    )
    pretrained_parts_model_name_or_path: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        help="Folder in diffusers layout or hub id to load every component but the transformer from. If the base "
        "model is one file: only the components that it lacks. If not set: the base model's own.",
    )
    pretrained_vae_model_name_or_path: str | None = option(
        None,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS,),
        help="Folder, hub id or `.safetensors` file of the VAE. If not set: the base model's own.",
    )
    pretrained_clip_l_model_name_or_path: str | None = option(
        None,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Folder, hub id or `.safetensors` file of the CLIP-L text encoder, such as `clip_l.safetensors`. If not "
        "set: the base model's own.",
    )
    pretrained_clip_g_model_name_or_path: str | None = option(
        None,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Folder, hub id or `.safetensors` file of the CLIP-G text encoder, such as `clip_g.safetensors`. If not "
        "set: the base model's own.",
    )
    pretrained_t5_model_name_or_path: str | None = option(
        None,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Folder, hub id or `.safetensors` file of the T5 text encoder, such as `t5xxl_fp16.safetensors`; `none` "
        "trains without T5, with zeros in place of its output. If not set: the base model's own.",
    )
    revision: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        help="Branch, tag or commit of the base model on the hub.",
    )
    variant: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        help="Variant of the weight files, such as `fp16`.",
    )

    @property
    def without_t5(self) -> bool:
        """Whether the model is trained without T5, with zeros in its place."""
        return self.pretrained_t5_model_name_or_path == WITHOUT


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """Dtypes and quantization of the base model, the computation and the encoders."""

    mixed_precision: str | None = option(
        None,
        choices=("no", "bf16"),
        refused=(("fp16", "SD3's values grow too large for fp16 and become NaN; bf16 holds them and is as fast"),),
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS, EMBEDDINGS),
        effect="latents and embeddings are cached for each dtype, and results round differently",
        help="Compute dtype. If not set: `bf16` if the device supports it, else `no`.",
    )
    base_model_precision: str = option(
        "no_change",
        choices=QUANTO_LEVELS,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        effect="the frozen weights change; captions are encoded again if the text encoders follow this setting",
        help="Quantization of the frozen base model.",
    )
    base_model_default_dtype: str | None = option(
        None,
        choices=("bf16", "fp32"),
        on_resume=OnResume.ANNOUNCE,
        help="Dtype of base weights that are not quantized. If not set: `bf16` if the base is quantized, else as "
        "`mixed_precision`.",
    )
    text_encoder_1_precision: str | None = option(
        None,
        choices=QUANTO_LEVELS,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Quantization of CLIP-L while captions are encoded. If not set: as `base_model_precision`.",
    )
    text_encoder_2_precision: str | None = option(
        None,
        choices=QUANTO_LEVELS,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Quantization of CLIP-G while captions are encoded. If not set: as `base_model_precision`.",
    )
    text_encoder_3_precision: str | None = option(
        None,
        choices=QUANTO_LEVELS,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Quantization of T5 while captions are encoded. If not set: as `base_model_precision`.",
    )
    quantize_via: str = option(
        "cpu",
        choices=("cpu", "accelerator"),
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        effect="the frozen weights may round differently, and so may captions if text encoders are quantized",
        help="Device that quantizes the weights, block by block: the `cpu`, or the `accelerator` that trains.",
    )
    vae_dtype: str | None = option(
        None,
        choices=("bf16", "fp32"),
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS,),
        help="Dtype of the VAE. If not set: as `mixed_precision`.",
    )
    allow_tf32: bool = option(
        True,
        on_resume=OnResume.ANNOUNCE,
        help="Let NVIDIA GPUs round fp32 matrix products to TF32, which is faster.",
    )

    def for_training(self, *, model_type: str, optimizer: str) -> "PrecisionOptions":
        """With `base_model_default_dtype` set for full fine-tuning: fp32, unless the optimizer rounds stochastically.

        bf16 keeps 8 bits of a weight, so most updates would be rounded away; `adamw_bf16` rounds stochastically instead.
        """
        if model_type != "full" or self.base_model_default_dtype:
            return self
        return replace(self, base_model_default_dtype="bf16" if optimizer == "adamw_bf16" else "fp32")

    def text_encoder_precision(self, number: int) -> str:
        """Quantization of text encoder `number` (1 CLIP-L, 2 CLIP-G, 3 T5): its own setting, else the base model's."""
        levels = (self.text_encoder_1_precision, self.text_encoder_2_precision, self.text_encoder_3_precision)
        return levels[number - 1] or self.base_model_precision


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """Size, layers and kind of the adapter."""

    lora_rank: int = option(
        16,
        minimum=1,
        maximum=MAX_RANK,
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="Rank of the LoRA. A higher rank can learn more and makes a larger file.",
    )
    lora_alpha: float | None = option(
        None,
        above=0.0,
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="Alpha of the LoRA, which is scaled by alpha / rank. If not set: the rank. Saved in the file.",
    )
    lora_dropout: float = option(
        0.0,
        minimum=0.0,
        maximum=0.99,
        on_resume=OnResume.ANNOUNCE,
        requires=("model_type", ("lora",)),
        help="Share of the LoRA's inputs to drop at each training step.",
    )
    lora_target: str = option(
        "attention",
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="Layers to train a LoRA on: `image-attention`, `attention` (both streams), `attention+mlp`, or a "
        "comma-separated list of module names.",
    )
    use_dora: bool = option(
        False,
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="Train a DoRA, which learns the magnitude of each row of the weights apart from its direction. Closer to "
        "full fine-tuning at small ranks, but slower and needs more memory.",
    )
    use_rslora: bool = option(
        False,
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="Train a rank-stabilized LoRA (rsLoRA), which is scaled by alpha / sqrt(rank), so that large ranks learn "
        "as fast as small ones.",
    )

    lora_ranks: str = option(
        "",
        on_resume=OnResume.REFUSE,
        requires=("lora_type", ("standard",)),
        help="Other ranks for some layers, such as `attn.to_q=32,transformer_blocks.0=8`: names or shell patterns as "
        "in `lora_target`. The last match counts. All layers keep the scale set by `lora_rank` and `lora_alpha`.",
    )
    lora_init_type: str = option(
        "default",
        choices=("default", "gaussian", "pissa", "olora", "loftq"),
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="Initialization of the LoRA. `default` and `gaussian` start with no change to the model and differ in "
        "their random numbers. `pissa` starts at the largest singular values of the frozen weights and `olora` at an "
        "orthogonal part of them; both learn faster at first. `loftq` starts at the largest singular values of the "
        "quantization error of `base_model_precision`, so that the model starts closer to the unquantized one.",
    )
    init_lora: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        requires=("model_type", ("lora",)),
        help="LoRA file to start a new run from, written by this program, diffusers, ComfyUI, kohya, OneTrainer or "
        "peft. Rank, alpha, target and kind come from the file if they are not set here.",
    )
    lora_type: str = option(
        "standard",
        choices=("standard", "lycoris"),
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="`standard` trains a LoRA or DoRA with the settings here. `lycoris` trains LoKr, LoHa and others, set in "
        "the file `lycoris_config`.",
    )
    lycoris_config: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        requires=("lora_type", ("lycoris",)),
        help="JSON file with the LyCORIS algorithms and the layers to train them on, such as a copy of "
        "`config/lycoris_config.json.example`.",
    )

    @property
    def init_file(self) -> Path | None:
        """The file that `init_lora` names; None if not set."""
        return Path(self.init_lora).expanduser() if self.init_lora else None

    @property
    def adapter_name(self) -> str:
        """The name of the adapter."""
        return ("rank-stabilised " if self.use_rslora else "") + ("DoRA" if self.use_dora else "LoRA")

    @property
    def ranks(self) -> tuple[tuple[str, int], ...]:
        """The names in `lora_ranks` with their ranks; raises ValueError if it cannot be read."""
        parts = [part.partition("=") for part in self.lora_ranks.split(",") if part.strip()]
        found = tuple((name.strip(), int(rank)) for name, _, rank in parts)
        if any(not name or not 1 <= rank <= MAX_RANK for name, rank in found):
            raise ValueError(self.lora_ranks)
        return found

    @property
    def scaling(self) -> float:
        """The scale of the adapter's product of matrices."""
        return self.alpha / (math.sqrt(self.lora_rank) if self.use_rslora else self.lora_rank)

    @property
    def alpha(self) -> float:
        """`lora_alpha`, else the rank."""
        return float(self.lora_rank) if self.lora_alpha is None else self.lora_alpha


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How captions are encoded."""

    tokenizer_max_length: int = option(
        77,
        minimum=1,
        maximum=256,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Maximum length for T5 in tokens. Longer captions are truncated.",
    )
    sd3_t5_mask_behaviour: str = option(
        "do-nothing",
        choices=("do-nothing", "mask"),
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="`mask` sets the padding positions of T5 to zero. `do-nothing` keeps them, as in SD3's own training.",
    )
    train_text_encoder: bool = option(
        False,
        on_resume=OnResume.REFUSE,
        help="Also train a LoRA of the same rank on both CLIP text encoders, which stay loaded. T5 stays frozen and "
        "cached. For `model_type=lora`.",
    )
