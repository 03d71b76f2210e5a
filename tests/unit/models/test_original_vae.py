"""The VAE's original names are those that diffusers' own converter reads, bit for bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.errors import ModelError
from helpers.models.formats.safetensors import lazy
from helpers.models.sd3.weights.components import read_config
from helpers.models.sd3.weights.original.vae import PREFIX, vae_to_diffusers, vae_to_original


def test_diffusers_converts_it_back_to_the_same_numbers(tiny_pipeline: Path) -> None:
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    tensors = load_file(tiny_pipeline / "vae" / "diffusion_pytorch_model.safetensors")
    original = {name: each.make() for name, each in vae_to_original(lazy(tensors)).items()}
    theirs = convert_ldm_vae_checkpoint(
        {PREFIX + name: tensor for name, tensor in original.items()}, read_config(tiny_pipeline / "vae")
    )
    ours = {name: each.make() for name, each in vae_to_diffusers(lazy(original)).items()}
    for found in (theirs, ours):
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_what_is_no_vae_of_sd3_is_refused(tiny_pipeline: Path) -> None:
    tensors = lazy(load_file(tiny_pipeline / "vae" / "diffusion_pytorch_model.safetensors"))
    with pytest.raises(ModelError, match="quant_conv"):
        vae_to_original({**tensors, "quant_conv.weight": tensors["encoder.conv_in.weight"]})
