"""A small random SD3 pipeline in diffusers layout: tests, benchmarks and the demo need a model without a download.

`python -m helpers.models.sd3.tiny FOLDER [SIZE]` makes one, or keeps an existing one.
"""

import json
import math
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.errors import ModelError
from helpers.models.contexts import hide_bitsandbytes
from helpers.models.sd3.assets import ASSETS, SMALL_PARTS
from helpers.models.sd3.weights.pipeline import model_index

RECIPE_FILE = "small_pipeline.json"
RECIPE_VERSION = 1
CLIP_VOCABULARY, T5_VOCABULARY = 49408, 32128
LATENT_CHANNELS = 16


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The size of each component; `t5_width` exceeds the sum of both CLIP widths, as in SD3.

    sample_size: the pipeline's default edge in latent pixels, for which positions are scaled.
    positions: the longest edge of position embeddings in patches, 16 * positions pixels.
    """

    layers: int
    heads: int
    head_width: int
    sample_size: int
    positions: int
    clip_l_width: int
    clip_g_width: int
    t5_width: int
    text_layers: int
    vae_widths: tuple[int, int, int, int]


SHAPES = {
    "tiny": Shape(
        layers=3, heads=2, head_width=16, sample_size=8, positions=96,
        clip_l_width=16, clip_g_width=24, t5_width=48, text_layers=2, vae_widths=(8, 8, 16, 16),
    ),
    "demo": Shape(
        layers=6, heads=6, head_width=32, sample_size=16, positions=64,
        clip_l_width=48, clip_g_width=64, t5_width=128, text_layers=3, vae_widths=(16, 32, 32, 32),
    ),
    "bench": Shape(
        layers=4, heads=4, head_width=64, sample_size=32, positions=64,
        clip_l_width=32, clip_g_width=48, t5_width=96, text_layers=2, vae_widths=(16, 32, 32, 32),
    ),
    "memory": Shape(
        layers=4, heads=8, head_width=64, sample_size=32, positions=64,
        clip_l_width=64, clip_g_width=128, t5_width=512, text_layers=8, vae_widths=(32, 64, 64, 64),
    ),
}  # fmt: skip


def make_tiny_pipeline(
    folder: Path, *, seed: int = 0, size: str = "tiny", dual_attention: bool = False, qk_norm: str | None = None
) -> Path:
    """Write a random SD3 of one of the sizes in `SHAPES` to `folder`, atomically, and return the folder.

    A pipeline of the same recipe is kept, one of a different recipe is replaced.
    dual_attention: a second image attention in the first layers, as SD3.5 medium has. qk_norm: None or `rms_norm`.
    Raises ModelError for an unknown size, or a folder with other content.
    """
    if size not in SHAPES:
        raise ModelError(f"There is no small pipeline of size `{size}`: choose one of {', '.join(SHAPES)}.")
    recipe = {
        "version": RECIPE_VERSION,
        "seed": seed,
        "size": size,
        "dual_attention": dual_attention,
        "qk_norm": qk_norm,
    }
    if folder.exists():
        if _recipe_of(folder) == recipe:
            return folder
        if any(folder.iterdir()) and _recipe_of(folder) is None:
            raise ModelError(f"{folder} has other content; name an empty folder for the small pipeline.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _write_models(work, shape=SHAPES[size], seed=seed, dual_attention=dual_attention, qk_norm=qk_norm)
        for name in SMALL_PARTS:
            shutil.copytree(ASSETS / name, work / name, copy_function=shutil.copyfile)
        _write_json(work / RECIPE_FILE, recipe)
        _write_json(work / "model_index.json", model_index())
        work.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return folder


def _recipe_of(folder: Path) -> dict[str, Any] | None:
    file = folder / RECIPE_FILE
    return json.loads(file.read_text()) if file.exists() else None


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


def _write_models(folder: Path, *, shape: Shape, seed: int, dual_attention: bool, qk_norm: str | None) -> None:
    import torch

    from helpers.models.contexts import no_progress_bars

    with torch.random.fork_rng(devices=[]), torch.no_grad(), no_progress_bars():
        torch.manual_seed(seed)
        _transformer(shape, dual_attention=dual_attention, qk_norm=qk_norm).save_pretrained(folder / "transformer")
        _vae(shape).save_pretrained(folder / "vae")
        _clip(shape.clip_l_width, shape.text_layers, activation="quick_gelu").save_pretrained(folder / "text_encoder")
        _clip(shape.clip_g_width, shape.text_layers, activation="gelu").save_pretrained(folder / "text_encoder_2")
        _t5(shape).save_pretrained(folder / "text_encoder_3")


def _init_weights(module: Any) -> None:
    """Initialize every matrix and convolution from a normal distribution that keeps the variance, with zero biases.

    The libraries' own initialization sets some layers to zero, so that captions and adapters would not affect the
    output.
    """
    from torch import nn

    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.normal_(layer.weight, std=1 / math.sqrt(layer.weight[0].numel()))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight)


def _transformer(shape: Shape, *, dual_attention: bool, qk_norm: str | None) -> Any:
    with hide_bitsandbytes():
        from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    width = shape.heads * shape.head_width
    model = SD3Transformer2DModel(
        sample_size=shape.sample_size,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=shape.layers,
        attention_head_dim=shape.head_width,
        num_attention_heads=shape.heads,
        joint_attention_dim=shape.t5_width,
        caption_projection_dim=width,
        pooled_projection_dim=shape.clip_l_width + shape.clip_g_width,
        pos_embed_max_size=shape.positions,
        dual_attention_layers=tuple(range(shape.layers - 1)) if dual_attention else (),
        qk_norm=qk_norm,
    )
    _init_weights(model)
    return model


def _vae(shape: Shape) -> Any:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    # The library annotates these three as tuples of length one.
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": shape.vae_widths,
    }
    model = AutoencoderKL(
        **blocks,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=LATENT_CHANNELS,
        sample_size=8 * shape.sample_size,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    _init_weights(model)
    return model


def _clip(width: int, layers: int, *, activation: str) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 8,
        hidden_act=activation,
        # SD3's own configs have 2, which makes transformers pool at the highest token.
        bos_token_id=0,
        eos_token_id=2,
    )
    model = CLIPTextModelWithProjection(config)
    _init_weights(model)
    return model


def _t5(shape: Shape) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=T5_VOCABULARY,
        d_model=shape.t5_width,
        d_kv=8,
        d_ff=2 * shape.t5_width,
        num_layers=shape.text_layers,
        num_heads=shape.t5_width // 8,
        feed_forward_proj="gated-gelu",
    )
    return T5EncoderModel(config)


def main(arguments: list[str]) -> None:
    """Make a pipeline from the arguments FOLDER [SIZE]."""
    if not 1 <= len(arguments) <= 2:
        raise ModelError(f"Name the folder to make and, optionally, its size: FOLDER [{'|'.join(SHAPES)}]")
    make_tiny_pipeline(Path(arguments[0]), size=arguments[1] if len(arguments) == 2 else "demo")


if __name__ == "__main__":
    main(sys.argv[1:])
