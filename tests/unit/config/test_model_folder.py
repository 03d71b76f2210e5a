"""What a model's folder holds is told from its JSON alone, with what to name in its place."""

import json
from pathlib import Path

import pytest

from helpers.config.checks.paths import check_model_folder
from helpers.config.parse import parse_arguments
from helpers.errors import ConfigError


def write(folder: Path, **files: object) -> Path:
    """A folder in which `transformer__config=…` is transformer/config.json."""
    for name, content in files.items():
        file = folder / f"{name.replace('__', '/')}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content if isinstance(content, str) else json.dumps(content))
    return folder


SD3 = {"_class_name": "StableDiffusion3Pipeline"}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n"
XL = {"_class_name": "StableDiffusionXLPipeline"}


def test_sd3_is_sd3(tmp_path: Path, tiny_pipeline: Path) -> None:
    assert check_model_folder(tiny_pipeline) is None
    assert check_model_folder(write(tmp_path, model_index={"_class_name": "StableDiffusion3Img2ImgPipeline"})) is None


@pytest.mark.parametrize(
    ("files", "reason", "fix"),
    [
        ({}, "no model_index.json, so it is not a model in diffusers layout", "with model_index.json"),
        ({"model_index": XL}, "it is a StableDiffusionXLPipeline; this program trains Stable Diffusion 3 and", "3.5"),
        ({"model_index": SD3, "transformer__config": {"_class_name": "FluxTransformer2DModel"}}, "is a Flux", "3.5"),
        ({"model_index": "{"}, "model_index.json cannot be read", "download it again"),
        ({"model_index": POINTER}, "model_index.json cannot be read: it is a git-lfs pointer", "lfs pull"),
        (
            {"model_index": SD3, "transformer__config": POINTER},
            "config.json cannot be read: it is a git-lfs",
            "lfs pull",
        ),
        ({"model_index": []}, "it does not hold an object", "download it again"),
        ({"config": {"_class_name": "SD3Transformer2DModel"}}, "only one component of a model, a SD3", "folder above"),
        ({"config": {"architectures": ["T5EncoderModel"]}}, "only one component of a model, a T5Enc", "folder above"),
        ({"inside__model_index": SD3}, "it has no model_index.json", "folder inside it: "),
    ],
)
def test_what_is_no_sd3(tmp_path: Path, files: dict[str, object], reason: str, fix: str) -> None:
    folder = write(tmp_path / "model", **files) if files else tmp_path
    with pytest.raises(ConfigError) as caught:
        parse_arguments([f"--pretrained_model_name_or_path={folder}", "--max_train_steps=1"])
    (problem,) = caught.value.problems
    assert (problem.option, problem.value) == ("MODEL_NAME", str(folder))
    assert reason in problem.reason
    assert fix in problem.fix
