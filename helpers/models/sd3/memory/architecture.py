"""The shapes of an SD3's components, read from its config files, so that its size is known before it is loaded.

Standard library only: the wizard and the dry run estimate memory with it in milliseconds. Parameter counts are exact.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMESTEP_CHANNELS = 256
MLP_RATIO = 4


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer of a component, by its name there."""

    name: str
    inputs: int
    outputs: int
    bias: bool = True

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        return self.weights + (self.outputs if self.bias else 0)


@dataclass(frozen=True, kw_only=True)
class Transformer:
    """The transformer of Esser et al. 2024, by the fields of its config.

    positions: the size of its table of positions, a buffer rather than a parameter.
    """

    layers: int
    heads: int
    head_width: int
    text_width: int
    pooled_width: int
    channels: int = 16
    patch: int = 2
    positions_per_edge: int = 192
    dual_attention_layers: tuple[int, ...] = ()
    qk_norm: bool = False

    @property
    def width(self) -> int:
        return self.heads * self.head_width

    @property
    def positions(self) -> int:
        return self.positions_per_edge**2 * self.width

    def block(self, index: int) -> Iterator[Linear]:
        """The linear layers of one block; the last block discards its text stream, and has fewer layers for it."""
        width, at = self.width, f"transformer_blocks.{index}"
        dual, last = index in self.dual_attention_layers, index == self.layers - 1
        yield Linear(f"{at}.norm1.linear", width, (9 if dual else 6) * width)
        yield Linear(f"{at}.norm1_context.linear", width, (2 if last else 6) * width)
        attention = ["to_q", "to_k", "to_v", "add_k_proj", "add_v_proj", "add_q_proj", "to_out.0"]
        for name in attention + ([] if last else ["to_add_out"]):
            yield Linear(f"{at}.attn.{name}", width, width)
        for name in ("to_q", "to_k", "to_v", "to_out.0") if dual else ():
            yield Linear(f"{at}.attn2.{name}", width, width)
        for name in ("ff",) if last else ("ff", "ff_context"):
            yield Linear(f"{at}.{name}.net.0.proj", width, MLP_RATIO * width)
            yield Linear(f"{at}.{name}.net.2", MLP_RATIO * width, width)

    def ends(self) -> Iterator[Linear]:
        """The linear layers before and after the blocks, which are never quantized."""
        width = self.width
        for name, inputs in (("timestep_embedder", TIMESTEP_CHANNELS), ("text_embedder", self.pooled_width)):
            yield Linear(f"time_text_embed.{name}.linear_1", inputs, width)
            yield Linear(f"time_text_embed.{name}.linear_2", width, width)
        yield Linear("context_embedder", self.text_width, width)
        yield Linear("norm_out.linear", width, 2 * width)
        yield Linear("proj_out", width, self.patch**2 * self.channels)

    def linears(self) -> Iterator[Linear]:
        """Every linear layer."""
        yield from self.ends()
        for index in range(self.layers):
            yield from self.block(index)

    def weights(self) -> Iterator[tuple[str, int]]:
        """Every parameter's name and size."""
        yield "pos_embed.proj.weight", self.patch**2 * self.channels * self.width
        yield "pos_embed.proj.bias", self.width
        for layer in self.linears():
            yield f"{layer.name}.weight", layer.weights
            if layer.bias:
                yield f"{layer.name}.bias", layer.outputs
        for index in range(self.layers if self.qk_norm else 0):
            at = f"transformer_blocks.{index}"
            for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
                yield f"{at}.attn.{name}.weight", self.head_width
            for name in ("norm_q", "norm_k") if index in self.dual_attention_layers else ():
                yield f"{at}.attn2.{name}.weight", self.head_width

    @property
    def parameters(self) -> int:
        return sum(size for _, size in self.weights())


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """CLIP's text model with its projection, or (`is_t5`) the encoder of T5 v1.1, whose heads may be wider.

    inner: the width of all heads together. positions: CLIP's token limit; T5's is a setting.
    """

    is_t5: bool
    vocabulary: int
    width: int
    inner: int
    heads: int
    mlp: int
    layers: int
    projection: int = 0
    positions: int = 77
    distances: int = 32

    @property
    def linear_weights(self) -> int:
        """The number of weights in linear layers, which quantizing shrinks."""
        attention, mlp = 4 * self.width * self.inner, (3 if self.is_t5 else 2) * self.width * self.mlp
        return self.layers * (attention + mlp) + self.width * self.projection

    @property
    def linear_rows(self) -> int:
        """The total outputs of all linear layers."""
        mlp = 2 * self.mlp if self.is_t5 else self.mlp
        return self.layers * (3 * self.inner + self.width + mlp + self.width) + self.projection

    @property
    def parameters(self) -> int:
        embedded = self.vocabulary * self.width
        if self.is_t5:
            return embedded + self.linear_weights + (2 * self.layers + 1) * self.width + self.distances * self.heads
        biases = self.linear_rows - self.projection
        norms = (2 * self.layers + 1) * 2 * self.width
        return embedded + self.positions * self.width + self.linear_weights + biases + norms


@dataclass(frozen=True, kw_only=True)
class Vae:
    """A diffusers AutoencoderKL; widths: channels of the blocks, from the image to the latents."""

    widths: tuple[int, ...]
    resnets: int
    channels: int
    middle_attention: bool = True
    quant_convolutions: bool = False

    @property
    def downscale(self) -> int:
        """Pixels per latent pixel."""
        return 2 ** (len(self.widths) - 1)

    @property
    def encoder_parameters(self) -> int:
        total = _convolution(3, self.widths[0]) + self._middle + 2 * self.widths[-1]
        before = self.widths[0]
        for place, width in enumerate(self.widths):
            total += _resnet(before, width) + (self.resnets - 1) * _resnet(width, width)
            total += _convolution(width, width) if place < len(self.widths) - 1 else 0
            before = width
        return total + _convolution(self.widths[-1], 2 * self.channels)

    @property
    def decoder_parameters(self) -> int:
        total = _convolution(self.channels, self.widths[-1]) + self._middle + 2 * self.widths[0]
        before = self.widths[-1]
        for place, width in reversed(tuple(enumerate(self.widths))):
            total += _resnet(before, width) + self.resnets * _resnet(width, width)
            total += _convolution(width, width) if place else 0
            before = width
        return total + _convolution(self.widths[0], 3)

    @property
    def parameters(self) -> int:
        quant = 5 * self.channels**2 + 3 * self.channels if self.quant_convolutions else 0
        return self.encoder_parameters + self.decoder_parameters + quant

    @property
    def _middle(self) -> int:
        width = self.widths[-1]
        attention = 2 * width + 4 * (width**2 + width) if self.middle_attention else 0
        return 2 * _resnet(width, width) + attention


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """All components of a model; text_encoders: CLIP-L, CLIP-G and, unless it is left out, T5."""

    transformer: Transformer
    text_encoders: tuple[TextEncoder, ...]
    vae: Vae


def read_architecture(*, transformer: Path, text_encoders: tuple[Path, ...], vae: Path) -> Architecture:
    """The architecture of a model from its components' folders, each with a checked config.json."""
    return Architecture(
        transformer=transformer_of(_read(transformer)),
        text_encoders=tuple(text_encoder_of(_read(folder)) for folder in text_encoders),
        vae=vae_of(_read(vae)),
    )


def transformer_of(config: Mapping[str, Any]) -> Transformer:
    """The transformer that a config.json describes."""
    return Transformer(
        layers=config["num_layers"],
        heads=config["num_attention_heads"],
        head_width=config["attention_head_dim"],
        text_width=config["joint_attention_dim"],
        pooled_width=config["pooled_projection_dim"],
        channels=config["in_channels"],
        patch=config["patch_size"],
        positions_per_edge=config["pos_embed_max_size"],
        dual_attention_layers=tuple(config.get("dual_attention_layers") or ()),
        qk_norm=bool(config.get("qk_norm")),
    )


def text_encoder_of(config: Mapping[str, Any]) -> TextEncoder:
    """The text encoder that a config.json describes; missing entries get the library's defaults."""
    if "d_model" in config:
        return TextEncoder(
            is_t5=True,
            vocabulary=config["vocab_size"],
            width=config["d_model"],
            inner=config["num_heads"] * config["d_kv"],
            heads=config["num_heads"],
            mlp=config["d_ff"],
            layers=config["num_layers"],
            distances=config.get("relative_attention_num_buckets", 32),
        )
    return TextEncoder(
        is_t5=False,
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        inner=config["hidden_size"],
        heads=config["num_attention_heads"],
        mlp=config["intermediate_size"],
        layers=config["num_hidden_layers"],
        projection=config["projection_dim"],
        positions=config.get("max_position_embeddings", 77),
    )


def vae_of(config: Mapping[str, Any]) -> Vae:
    """The VAE that a config.json describes."""
    return Vae(
        widths=tuple(config["block_out_channels"]),
        resnets=config["layers_per_block"],
        channels=config["latent_channels"],
        middle_attention=config.get("mid_block_add_attention", True),
        quant_convolutions=config.get("use_quant_conv", True),
    )


def _read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _convolution(inputs: int, outputs: int, *, edge: int = 3) -> int:
    return inputs * outputs * edge**2 + outputs


def _resnet(inputs: int, outputs: int) -> int:
    """Two normalized convolutions, and a shortcut convolution if the width changes."""
    shortcut = _convolution(inputs, outputs, edge=1) if inputs != outputs else 0
    return 2 * inputs + _convolution(inputs, outputs) + 2 * outputs + _convolution(outputs, outputs) + shortcut


def _clip(width: int, layers: int, heads: int) -> TextEncoder:
    return TextEncoder(
        is_t5=False,
        vocabulary=49408,
        width=width,
        inner=width,
        heads=heads,
        mlp=4 * width,
        layers=layers,
        projection=width,
    )


def _published(transformer: Transformer) -> Architecture:
    t5 = TextEncoder(is_t5=True, vocabulary=32128, width=4096, inner=4096, heads=64, mlp=10240, layers=24)
    vae = Vae(widths=(128, 256, 512, 512), resnets=2, channels=16)
    return Architecture(transformer=transformer, text_encoders=(_clip(768, 12, 12), _clip(1280, 32, 20), t5), vae=vae)


MEDIUM = Transformer(layers=24, heads=24, head_width=64, text_width=4096, pooled_width=2048)

KNOWN: Mapping[str, Architecture] = {
    "SD3 medium": _published(MEDIUM),
    "SD3.5 medium": _published(
        Transformer(
            layers=24,
            heads=24,
            head_width=64,
            text_width=4096,
            pooled_width=2048,
            positions_per_edge=384,
            dual_attention_layers=tuple(range(13)),
            qk_norm=True,
        )
    ),
    "SD3.5 large": _published(
        Transformer(layers=38, heads=38, head_width=64, text_width=4096, pooled_width=2048, qk_norm=True)
    ),
}
"""The published models, by their names in `ModelComponents.variant`."""
