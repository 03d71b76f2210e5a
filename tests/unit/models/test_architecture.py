"""Shapes estimated from config files are those of the libraries' own models."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from helpers.models.sd3.memory.architecture import (
    KNOWN,
    Architecture,
    TextEncoder,
    Transformer,
    read_architecture,
    text_encoder_of,
    transformer_of,
    vae_of,
)
from helpers.models.sd3.memory.trainable_parameters import adapted_layers
from helpers.models.sd3.transformer import target_modules
from helpers.models.sd3.weights.components import read_config


def counted(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def linear(module: nn.Module) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}


def transformer_on_meta(shape: Transformer) -> Any:
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    with torch.device("meta"):
        return SD3Transformer2DModel(
            num_layers=shape.layers,
            num_attention_heads=shape.heads,
            attention_head_dim=shape.head_width,
            joint_attention_dim=shape.text_width,
            caption_projection_dim=shape.width,
            pooled_projection_dim=shape.pooled_width,
            in_channels=shape.channels,
            out_channels=shape.channels,
            patch_size=shape.patch,
            pos_embed_max_size=shape.positions_per_edge,
            dual_attention_layers=shape.dual_attention_layers,
            qk_norm="rms_norm" if shape.qk_norm else None,
        )


def text_encoder_on_meta(shape: TextEncoder) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, T5Config, T5EncoderModel

    with torch.device("meta"):
        if shape.is_t5:
            return T5EncoderModel(
                T5Config(
                    vocab_size=shape.vocabulary,
                    d_model=shape.width,
                    d_kv=shape.inner // shape.heads,
                    d_ff=shape.mlp,
                    num_layers=shape.layers,
                    num_heads=shape.heads,
                    feed_forward_proj="gated-gelu",
                )
            )
        return CLIPTextModelWithProjection(
            CLIPTextConfig(
                vocab_size=shape.vocabulary,
                hidden_size=shape.width,
                intermediate_size=shape.mlp,
                num_hidden_layers=shape.layers,
                num_attention_heads=shape.heads,
                projection_dim=shape.projection,
            )
        )


@pytest.mark.parametrize("name", KNOWN)
def test_the_published_transformers_are_counted_to_the_last_parameter(name: str) -> None:
    shape = KNOWN[name].transformer
    model = transformer_on_meta(shape)
    assert dict(shape.weights()) == {name: weight.numel() for name, weight in model.named_parameters()}
    assert shape.parameters == counted(model)
    assert shape.positions == sum(buffer.numel() for buffer in model.buffers())
    layers = {layer.name: (layer.inputs, layer.outputs) for layer in shape.linears()}
    assert layers == {name: (layer.in_features, layer.out_features) for name, layer in linear(model).items()}
    assert transformer_of(model.config) == shape


@pytest.mark.parametrize("target", ["image-attention", "attention", "attention+mlp", "attn2,ff.net.2,proj_out"])
def test_an_adapter_is_counted_on_the_layers_it_will_sit_on(target: str) -> None:
    shape = KNOWN["SD3.5 medium"].transformer
    names = [layer.name for layer in adapted_layers(shape, target)]
    assert sorted(names) == sorted(target_modules(transformer_on_meta(shape), target))


@pytest.mark.parametrize("place", range(3))
def test_the_published_text_encoders_are_counted_to_the_last_parameter(place: int) -> None:
    shape = KNOWN["SD3 medium"].text_encoders[place]
    model = text_encoder_on_meta(shape)
    assert shape.parameters == counted(model)
    assert shape.linear_weights == sum(layer.weight.numel() for layer in linear(model).values())
    assert shape.linear_rows == sum(layer.out_features for layer in linear(model).values())
    assert text_encoder_of(model.config.to_dict()) == shape


@pytest.mark.parametrize("quant_convolutions", [False, True])
def test_the_published_vae_is_counted_to_the_last_parameter(quant_convolutions: bool) -> None:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
    }
    with torch.device("meta"):
        model: Any = AutoencoderKL(
            **blocks,
            layers_per_block=2,
            latent_channels=16,
            use_quant_conv=quant_convolutions,
            use_post_quant_conv=quant_convolutions,
        )
    shape = vae_of(model.config)
    assert shape.parameters == counted(model)
    assert (shape.encoder_parameters, shape.decoder_parameters) == (counted(model.encoder), counted(model.decoder))
    assert quant_convolutions or shape == KNOWN["SD3 medium"].vae


def test_a_folder_is_read_as_what_lies_in_it(tiny_pipeline: Path) -> None:
    found = read_architecture(
        transformer=tiny_pipeline / "transformer",
        text_encoders=tuple(tiny_pipeline / name for name in ("text_encoder", "text_encoder_2", "text_encoder_3")),
        vae=tiny_pipeline / "vae",
    )
    assert isinstance(found, Architecture)
    assert found.transformer == transformer_of(read_config(tiny_pipeline / "transformer"))
    assert [encoder.is_t5 for encoder in found.text_encoders] == [False, False, True]
    assert found.text_encoders[2].parameters == counted(text_encoder_on_meta(found.text_encoders[2]))
    assert found.vae.downscale == 8
