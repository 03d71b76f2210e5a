"""Which model is trained, in which precision, and what is attached to it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

from helpers.config.option import EMBEDDINGS, LATENTS, OnResume, option

QUANTO_LEVELS = ("no_change", "int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto")
WITHOUT = "none"
"""What `pretrained_t5_model_name_or_path` is set to for a model without T5."""

LORA_TARGETS = ("image-attention", "attention", "attention+mlp")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The base model and where its parts come from."""

    model_type: str = option(
        "lora",
        choices=("lora", "full"),
        on_resume=OnResume.REFUSE,
        help="What is trained: `lora`, a small adapter beside the frozen model, or `full`, the transformer itself.",
    )
    sd3: bool = option(
        True,
        env="STABLE_DIFFUSION_3",
        refused=(("false", "Stable Diffusion 3 and 3.5 are all that this program trains so far"),),
        on_resume=OnResume.IGNORE,
        help="Train Stable Diffusion 3 or 3.5, the only family so far; which one is read from the model's own config.",
    )
    pretrained_model_name_or_path: str = option(
        "",
        env="MODEL_NAME",
        required=True,
        on_resume=OnResume.IGNORE,
        effect="a checkpoint resumes only if the model's weights are the same",
        help="The base model: a Hugging Face hub id, a folder in diffusers layout, or one `.safetensors` file in the "
        "original layout.",
    )
    pretrained_parts_model_name_or_path: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        help="A folder in diffusers layout, or a hub id, to take all but the transformer from; where the base model is "
        "one file, what that lacks. Without it, they are the base's own.",
    )
    pretrained_vae_model_name_or_path: str | None = option(
        None,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS,),
        help="A folder, hub id or `.safetensors` file to take the VAE from; without it, the base model's own.",
    )
    pretrained_clip_l_model_name_or_path: str | None = option(
        None,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="A folder, hub id or `.safetensors` file, such as `clip_l.safetensors`, to take the CLIP-L text encoder from; "
        "without it, the base model's own.",
    )
    pretrained_clip_g_model_name_or_path: str | None = option(
        None,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="A folder, hub id or `.safetensors` file, such as `clip_g.safetensors`, to take the CLIP-G text encoder from; "
        "without it, the base model's own.",
    )
    pretrained_t5_model_name_or_path: str | None = option(
        None,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="A folder, hub id or `.safetensors` file, such as `t5xxl_fp16.safetensors`, to take the T5 text encoder from, or "
        "`none` to train without it, with zeros in its place; without this setting, the base model's own.",
    )
    revision: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        help="The branch, tag or commit of the base model on the hub.",
    )
    variant: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        help="The variant of the weight files, such as `fp16`.",
    )

    @property
    def without_t5(self) -> bool:
        """Whether the model is trained without T5, with zeros in its place."""
        return self.pretrained_t5_model_name_or_path == WITHOUT


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """Dtypes: of the frozen base, of the arithmetic, and of the encoders."""

    mixed_precision: str | None = option(
        None,
        choices=("no", "bf16"),
        refused=(("fp16", "SD3's values grow too large for fp16 and become NaN; bf16 holds them and is as fast"),),
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS, EMBEDDINGS),
        effect="latents and embeddings are cached for each dtype, and the arithmetic rounds differently",
        help="The dtype of the arithmetic; without it, `bf16` where the device can and `no` elsewhere.",
    )
    base_model_precision: str = option(
        "no_change",
        choices=QUANTO_LEVELS,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        effect="the frozen weights differ; captions are encoded again where text encoders follow it",
        help="How far the frozen base's weights are quantized.",
    )
    base_model_default_dtype: str | None = option(
        None,
        choices=("bf16", "fp32"),
        on_resume=OnResume.ANNOUNCE,
        help="The format of base weights that are not quantized; without it, `bf16` when quantized, else as "
        "`mixed_precision`.",
    )
    text_encoder_1_precision: str | None = option(
        None,
        choices=QUANTO_LEVELS,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="How far CLIP-L is quantized while captions are encoded; without it, as the base model.",
    )
    text_encoder_2_precision: str | None = option(
        None,
        choices=QUANTO_LEVELS,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="How far CLIP-G is quantized while captions are encoded; without it, as the base model.",
    )
    text_encoder_3_precision: str | None = option(
        None,
        choices=QUANTO_LEVELS,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="How far T5 is quantized while captions are encoded; without it, as the base model.",
    )
    quantize_via: str = option(
        "cpu",
        choices=("cpu", "accelerator"),
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        effect="the frozen weights may be rounded differently; captions too where text encoders are quantized",
        help="Where weights are quantized, block by block: `cpu`, or the `accelerator` that computes with them.",
    )
    vae_dtype: str | None = option(
        None,
        choices=("bf16", "fp32"),
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS,),
        help="The VAE's dtype; without it, as `mixed_precision`.",
    )
    allow_tf32: bool = option(
        True,
        on_resume=OnResume.ANNOUNCE,
        help="Let NVIDIA GPUs round 32-bit matrix products to TF32, which is faster.",
    )

    def for_training(self, *, model_type: str, optimizer: str) -> "PrecisionOptions":
        """With the dtype of weights that are trained themselves said: fp32, which an optimizer can move.

        bf16 keeps 8 bits of a weight, so that most steps would be rounded away; `adamw_bf16` rounds at random instead.
        """
        if model_type != "full" or self.base_model_default_dtype:
            return self
        return replace(self, base_model_default_dtype="bf16" if optimizer == "adamw_bf16" else "fp32")

    def text_encoder_precision(self, number: int) -> str:
        """How far text encoder `number` (1 CLIP-L, 2 CLIP-G, 3 T5) is quantized: what was said, else as the base."""
        said = (self.text_encoder_1_precision, self.text_encoder_2_precision, self.text_encoder_3_precision)
        return said[number - 1] or self.base_model_precision


@dataclass(frozen=True, kw_only=True)
class LoraOptions:
    """The adapter's shape and place."""

    lora_rank: int = option(
        16,
        minimum=1,
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="The adapter's rank: its width, and so its capacity and size.",
    )
    lora_alpha: float | None = option(
        None,
        above=0.0,
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="The adapter's strength is alpha / rank; without it, alpha is the rank. Saved in the file.",
    )
    lora_dropout: float = option(
        0.0,
        minimum=0.0,
        maximum=0.99,
        on_resume=OnResume.ANNOUNCE,
        requires=("model_type", ("lora",)),
        help="The share of the adapter's inputs dropped at each training step.",
    )
    lora_target: str = option(
        "attention",
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="Where it is attached: `image-attention`, `attention` (both streams), `attention+mlp`, or a comma "
        "list of module names.",
    )
    use_dora: bool = option(
        False,
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="DoRA: learn the length of each row of the weights apart from its direction. Closer to full tuning at small "
        "ranks, slower and larger in memory.",
    )
    use_rslora: bool = option(
        False,
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="rsLoRA: the adapter's strength is alpha / sqrt(rank), so that large ranks learn as fast as small ones.",
    )

    lora_ranks: str = option(
        "",
        on_resume=OnResume.REFUSE,
        requires=("lora_type", ("standard",)),
        help="Other ranks for some layers, such as `attn.to_q=32,transformer_blocks.0=8`: names or shell patterns as in "
        "`lora_target`, of which the last that fits counts. All layers keep the strength that `lora_rank` and "
        "`lora_alpha` say.",
    )
    lora_init_type: str = option(
        "default",
        choices=("default", "gaussian", "pissa", "olora", "loftq"),
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="Where a LoRA begins: `default` and `gaussian` at nothing, drawn differently; `pissa` at the largest parts of "
        "the frozen weights, `olora` at an orthogonal piece of them, which both learn faster at first; `loftq` at the largest "
        "parts of what `base_model_precision` took from the weights, so that the model begins nearer to the whole one.",
    )
    init_lora: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        requires=("model_type", ("lora",)),
        help="A LoRA file that a new run begins at, of this program, diffusers, ComfyUI, kohya, OneTrainer or peft. Rank, "
        "alpha, target and kind are the file's, where the settings here leave them out.",
    )
    lora_type: str = option(
        "standard",
        choices=("standard", "lycoris"),
        on_resume=OnResume.REFUSE,
        requires=("model_type", ("lora",)),
        help="`standard`: a LoRA or DoRA, as the settings here say. `lycoris`: LoKr, LoHa and others, as the file "
        "`lycoris_config` says.",
    )
    lycoris_config: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        requires=("lora_type", ("lycoris",)),
        help="The JSON file that says which of LyCORIS's algorithms sits where, such as a copy of "
        "`config/lycoris_config.json.example`.",
    )

    @property
    def init_file(self) -> Path | None:
        """The file that `init_lora` names; None where it is left out."""
        return Path(self.init_lora).expanduser() if self.init_lora else None

    @property
    def kind(self) -> str:
        """What the adapter is called."""
        return ("rank-stabilised " if self.use_rslora else "") + ("DoRA" if self.use_dora else "LoRA")

    @property
    def ranks(self) -> tuple[tuple[str, int], ...]:
        """The names in `lora_ranks` with their ranks; raises ValueError where it is written otherwise."""
        parts = [part.partition("=") for part in self.lora_ranks.split(",") if part.strip()]
        found = tuple((name.strip(), int(rank)) for name, _, rank in parts)
        if any(not name or rank < 1 for name, rank in found):
            raise ValueError(self.lora_ranks)
        return found

    @property
    def strength(self) -> float:
        """What the adapter's product of matrices is multiplied by."""
        return self.alpha / (math.sqrt(self.lora_rank) if self.use_rslora else self.lora_rank)

    @property
    def alpha(self) -> float:
        """The alpha that was said, else the rank."""
        return float(self.lora_rank) if self.lora_alpha is None else self.lora_alpha


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """How captions become the model's conditioning."""

    tokenizer_max_length: int = option(
        77,
        minimum=1,
        maximum=256,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="T5's length in tokens; longer captions are cut.",
    )
    sd3_t5_mask_behaviour: str = option(
        "do-nothing",
        choices=("do-nothing", "mask"),
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="`mask` sets T5's padding positions to zero; `do-nothing` is what SD3 was trained with.",
    )
    train_text_encoder: bool = option(
        False,
        on_resume=OnResume.REFUSE,
        help="Train a LoRA of the same rank on both CLIP text encoders too, which stay loaded; T5 is cached as ever. For "
        "`model_type=lora`.",
    )
