"""A model that was written in another form draws what it drew before, opened by programs that are not this one."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from helpers.config.options.model import ModelOptions
from helpers.errors import ModelError
from helpers.models.conversions import opened_model
from helpers.models.family import ModelComponents
from helpers.models.formats.lora import Pair, write_diffusers_lora
from helpers.models.sd3.family import sd3_family
from helpers.models.sd3.tiny import make_tiny_pipeline
from helpers.models.sd3.weights.components import locate
from tests.unit.models.lora import KINDS

LAYER = "transformer_blocks.1.attn.to_k"
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", params=KINDS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelComponents:
    folder = make_tiny_pipeline(tmp_path_factory.mktemp("base") / "pipeline", **KINDS[request.param])
    return locate(ModelOptions(pretrained_model_name_or_path=str(folder)))


def folder_of(base: ModelComponents) -> Path:
    return Path(base.name)


def header(file: Path) -> dict[str, str]:
    with safe_open(file, framework="pt") as content:
        return content.metadata()


def assert_same(first: Any, second: Any) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_diffusers_opens_the_single_file_offline_and_it_goes_back(base: ModelComponents, tmp_path: Path) -> None:
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

    family, folder, single = sd3_family(), folder_of(base), tmp_path / "sd3.safetensors"
    with opened_model(folder, base=None, family=family) as model:
        model.write_single_file(single, family=family)
    expected: Any = StableDiffusion3Pipeline.from_pretrained(folder)
    encoders = {name: getattr(expected, name) for name in ("text_encoder", "text_encoder_2", "text_encoder_3")}
    found: Any = StableDiffusion3Pipeline.from_single_file(
        str(single), config=str(folder), local_files_only=True, **encoders
    )
    for part in ("transformer", "vae"):
        assert_same(getattr(found, part).state_dict(), getattr(expected, part).state_dict())
    assert header(single)["modelspec.implementation"] != "diffusers"

    (tmp_path / "back").mkdir()
    with opened_model(single, base=base, family=family) as model:
        model.write_pipeline(tmp_path / "back", family=family)
    assert_same(load_file(tmp_path / "back/transformer" / FILE), load_file(folder / "transformer" / FILE))
    assert StableDiffusion3Pipeline.from_pretrained(tmp_path / "back")


def test_a_lora_is_merged_in_the_base_s_own_number_format(base: ModelComponents, tmp_path: Path) -> None:
    before = {name: each.half() for name, each in load_file(base.transformer / FILE).items()}
    shutil.copytree(folder_of(base), tmp_path / "base")
    save_file(before, tmp_path / "base/transformer" / FILE)
    parts = locate(ModelOptions(pretrained_model_name_or_path=str(tmp_path / "base")))
    draw = torch.Generator().manual_seed(0)
    pair = Pair(down=torch.randn(4, 32, generator=draw), up=torch.randn(32, 4, generator=draw), alpha=2.0)
    said = {"modelspec.architecture": "stable-diffusion-v3-medium/lora", "step": "7"}
    write_diffusers_lora(tmp_path / "lora.safetensors", {LAYER: pair}, metadata=said)
    (tmp_path / "merged").mkdir()
    with opened_model(tmp_path / "lora.safetensors", base=parts, family=sd3_family()) as model:
        model.write_pipeline(tmp_path / "merged", family=sd3_family())
    after = load_file(tmp_path / "merged/transformer" / FILE)
    expected = before[f"{LAYER}.weight"].float() + pair.up @ pair.down * (2.0 / 4)
    torch.testing.assert_close(after[f"{LAYER}.weight"], expected.half(), atol=1e-3, rtol=1e-3)
    assert {name for name in after if not torch.equal(after[name], before[name])} == {f"{LAYER}.weight"}
    assert header(tmp_path / "merged/transformer" / FILE) | {
        "modelspec.architecture": "stable-diffusion-v3-medium",
        "step": "7",
        "modelspec.implementation": "diffusers",
    } == header(tmp_path / "merged/transformer" / FILE)


def test_what_does_not_go_together_is_refused(tiny_pipeline: Path, tmp_path: Path) -> None:
    parts, family = locate(ModelOptions(pretrained_model_name_or_path=str(tiny_pipeline))), sd3_family()
    other = make_tiny_pipeline(tmp_path / "large", qk_norm="rms_norm")
    with opened_model(other, base=None, family=family) as model:
        model.write_single_file(tmp_path / "large.safetensors", family=family)
    save_file({"something": torch.ones(1)}, tmp_path / "something.safetensors")
    for name, base, told in (
        ("large.safetensors", parts, "a different model than .* its .*norm"),
        ("large.safetensors", None, "name its base model"),
        ("something.safetensors", parts, "neither an adapter nor an SD3"),
    ):
        with pytest.raises(ModelError, match=told), opened_model(tmp_path / name, base=base, family=family):
            pass
