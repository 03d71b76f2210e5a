"""A model filled block by block is the whole model quantized at once, and never takes its room."""

import gc
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from helpers.config.options.model import ModelOptions, PrecisionOptions, TextOptions
from helpers.errors import ModelError
from helpers.models import loading as streaming
from helpers.models.formats.safetensors import open_all
from helpers.models.loading import WeightFormat, load_weights, weights_of
from helpers.models.quantization import layers_to_quantize, quantize
from helpers.models.sd3.text_encoders import text_parts
from helpers.models.sd3.tiny import make_tiny_pipeline
from helpers.models.sd3.transformer import NEVER_QUANTIZED, load_denoiser
from helpers.models.sd3.vae import latent_part
from helpers.models.sd3.weights.components import locate
from helpers.reporting.progress import PeakMemory

LEVELS = ("no_change", "int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto")
VARIANTS: dict[str, dict[str, Any]] = {
    "SD3": {},
    "SD3.5 medium": {"dual_attention": True, "qk_norm": "rms_norm"},
    "SD3.5 large": {"qk_norm": "rms_norm"},
}
WHOLE: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("diffusers", "SD3Transformer2DModel", NEVER_QUANTIZED),
    ("transformers", "CLIPTextModelWithProjection", ()),
    ("transformers", "CLIPTextModelWithProjection", ()),
    ("transformers", "T5EncoderModel", ()),
    ("diffusers", "AutoencoderKL", ("*",)),
)


def at_once(folder: Path, kind: tuple[str, str, tuple[str, ...]], *, level: str, device: torch.device) -> nn.Module:
    """The libraries' own loading, and quanto's of everything together."""
    library, name, keep = kind
    model_class: Any = getattr(__import__(library), name)
    argument = "dtype" if library == "transformers" else "torch_dtype"
    model = model_class.from_pretrained(folder, **{argument: torch.bfloat16}).eval()
    if level != "no_change":
        quantize(model, level, layers=layers_to_quantize(model, level, keep=keep))
    return model.requires_grad_(False)


def assert_same(first: nn.Module, second: nn.Module) -> None:
    have, want = first.state_dict(), second.state_dict()
    assert have.keys() == want.keys()
    for name, tensor in want.items():
        assert have[name].dtype == tensor.dtype
        assert torch.equal(bits(have[name]), bits(tensor)), name


def bits(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


@pytest.mark.parametrize(
    ("kind", "level"),
    [*zip(("SD3", "SD3", "SD3.5 medium", "SD3.5 large", "SD3.5 medium"), LEVELS, strict=True)],
)
def test_every_part_is_bit_for_bit_what_it_is_at_once(tmp_path: Path, cpu: torch.device, kind: str, level: str) -> None:
    folder = make_tiny_pipeline(tmp_path / "tiny", **VARIANTS[kind])
    parts = locate(ModelOptions(pretrained_model_name_or_path=str(folder)))
    precision = PrecisionOptions(mixed_precision="bf16", base_model_precision=level, quantize_via="accelerator")
    encoders: list[Any] = [part.load() for part in text_parts(parts, TextOptions(), precision, cpu)]
    vae: Any = latent_part(parts, precision, cpu).load()
    streamed = (load_denoiser(parts, precision, cpu), *(encoder._model for encoder in encoders), vae._model)
    folders = (parts.transformer, *parts.text_encoders, parts.vae)
    for model, place, libraries in zip(streamed, folders, WHOLE, strict=True):
        assert not any(each.training for each in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert_same(model, at_once(place, libraries, level=level, device=cpu))


class Deep(nn.Module):
    """Sixteen square layers of a million weights."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(1024, 1024, bias=False) for _ in range(16)])


def deep(folder: Path, *, kept_as: torch.dtype) -> tuple[nn.Module, Path]:
    """An empty model, and a file of its weights."""
    with torch.device("meta"):
        model = Deep()
    tensors = {name: torch.full(each.shape, 0.5, dtype=kept_as) for name, each in model.state_dict().items()}
    save_file(tensors, folder / "deep.safetensors")
    return model, folder / "deep.safetensors"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can start the high-water mark of memory again")
@pytest.mark.parametrize(("level", "held_bytes"), [("no_change", 2 << 24), ("int8-quanto", 1 << 24)])
def test_the_peak_is_what_is_held_and_one_block(tmp_path: Path, cpu: torch.device, level: str, held_bytes: int) -> None:
    """A file of 64 MiB, held in 32 or 16: at once, its mapped pages and a copy of 32 MiB were there together."""
    form = WeightFormat(dtype=torch.bfloat16, device=cpu, precision=level)
    (tmp_path / "warm").mkdir()
    for folder in (tmp_path / "warm", tmp_path):  # the first time, libraries are loaded too
        model, file = deep(folder, kept_as=torch.float32)
        gc.collect()
        peak = PeakMemory()
        before = peak.resident_bytes()
        load_weights(model, weights_of(partial(open_all, [file])), form, name="deep")
    block_bytes, allowance_bytes = 6 << 20, 8 << 20
    assert peak.resident_bytes() - before < held_bytes + 2 * block_bytes + allowance_bytes


def test_weights_of_another_shape_or_too_few_are_refused(tmp_path: Path, cpu: torch.device) -> None:
    model, file = deep(tmp_path, kept_as=torch.bfloat16)
    form = WeightFormat(dtype=torch.bfloat16, device=cpu)
    tensors = load_file(file)
    del tensors["blocks.7.weight"]
    save_file(tensors, file)
    with pytest.raises(ModelError, match=r"of the deep lack the tensor blocks\.7\.weight"):
        load_weights(model, weights_of(partial(open_all, [file])), form, name="deep")
    save_file({**tensors, "blocks.7.weight": torch.zeros(2, 1024)}, file)
    with pytest.raises(ModelError, match=r"blocks\.7\.weight has the shape \[2, 1024\], but its config requires"):
        load_weights(model, weights_of(partial(open_all, [file])), form, name="deep")


@pytest.mark.parametrize("via", ["cpu", "accelerator"])
def test_each_block_is_quantized_where_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, via: str
) -> None:
    """PyTorch's device without memory stands for an accelerator."""
    seen: list[str] = []

    def watched(module: nn.Module, level: str, *, layers: list[str]) -> None:
        seen.extend(module.get_parameter(f"{layer}.weight").device.type for layer in layers)
        quantize(module, level, layers=layers)

    monkeypatch.setattr(streaming, "quantize", watched)
    model, file = deep(tmp_path, kept_as=torch.bfloat16)
    form = WeightFormat(dtype=torch.bfloat16, device=torch.device("meta"), precision="int8-quanto", quantize_via=via)
    load_weights(model, weights_of(partial(open_all, [file])), form, name="deep")
    assert seen == ["cpu" if via == "cpu" else "meta"] * 16
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


def test_captions_are_encoded_anew_where_an_accelerator_may_have_rounded_otherwise(tiny_pipeline: Path) -> None:
    parts = locate(ModelOptions(pretrained_model_name_or_path=str(tiny_pipeline)))

    def identities(device: str, level: str, via: str) -> list[str]:
        said = PrecisionOptions(mixed_precision="bf16", base_model_precision=level, quantize_via=via)
        return [part.identity for part in text_parts(parts, TextOptions(), said, torch.device(device))]

    assert identities("cuda", "int8-quanto", "cpu") != identities("cuda", "int8-quanto", "accelerator")
    assert identities("cuda", "no_change", "cpu") == identities("cuda", "no_change", "accelerator")
    assert identities("cpu", "int8-quanto", "cpu") == identities("cpu", "int8-quanto", "accelerator")
