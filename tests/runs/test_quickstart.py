"""The quickstart for SD3, step by step as people were told it, with a local model in the hub's place."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import helpers.training.loop
import helpers.training.run
from helpers.models.quantized_weight import LEVELS, QuantizedWeight
from helpers.training.step import StepContext
from tests.runs.harness import REPOSITORY, draw, encoded

DATASET_FILE = """\
[
  {
    "id": "pseudo-camera-10k-sd3",
    "type": "local",
    "crop": true,
    "crop_aspect": "square",
    "crop_style": "center",
    "resolution": 1.0,
    "minimum_image_size": 0.5,
    "maximum_image_size": 1.0,
    "target_downsample_size": 1.0,
    "resolution_type": "area",
    "cache_dir_vae": "cache/vae/sd3/pseudo-camera-10k",
    "instance_data_dir": "datasets/pseudo-camera-10k",
    "disabled": false,
    "skip_file_discovery": "",
    "caption_strategy": "filename",
    "metadata_backend": "json"
  },
  {
    "id": "text-embeds",
    "type": "local",
    "dataset_type": "text_embeds",
    "default": true,
    "cache_dir": "cache/text/sd3/pseudo-camera-10k",
    "disabled": false,
    "write_batch_size": 128
  }
]
"""

QUANTIZED = """
# choices: int8-quanto, int4-quanto, int2-quanto, fp8-quanto
# int8-quanto was tested with a single subject dreambooth LoRA.
# fp8-quanto does not work on Apple systems. you must use int levels.
# int2-quanto is pretty extreme and gets the whole rank-1 LoRA down to about 13.9GB VRAM.
# may the gods have mercy on your soul, should you push things Too Far.
export TRAINER_EXTRA_ARGS="--base_model_precision=int8-quanto"

# Maybe you want the text encoders to remain full precision so your text embeds are cake.
# We unload the text encoders before training, so, that's not an issue during training time - only during pre-caching.
# Alternatively, you can go ham on quantization here and run them in int4 or int8 mode, because no one can stop you.
export TRAINER_EXTRA_ARGS="${TRAINER_EXTRA_ARGS} --text_encoder_1_precision=no_change --text_encoder_2_precision=no_change"

# When you're quantizing the model, --base_model_default_dtype is set to bf16 by default. This setup requires adamw_bf16, but saves the most memory.
# If you'd like to use another optimizer, you can override this with --base_model_default_dtype=fp32.
# option one:
export OPTIMIZER="adamw_bf16" # or maybe prodigy
# option two:
#export TRAINER_EXTRA_ARGS="${TRAINER_EXTRA_ARGS} --base_model_default_dtype=fp32"
#export OPTIMIZER="adafactor" # or maybe prodigy
"""  # noqa: E501

OPTION_TWO = """
export TRAINER_EXTRA_ARGS="${TRAINER_EXTRA_ARGS} --base_model_default_dtype=fp32"
export OPTIMIZER="adafactor" # or maybe prodigy
"""

# What keeps a real run from taking hours here, said behind train.sh, where it wins.
SHORT = ("--max_train_steps=1", "--validation_num_inference_steps=1", "--torch_num_threads=1")
ID = "pseudo-camera-10k-sd3"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in a folder of its own, whose config may be written to."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("helpers", "install", "train.py", "train.sh"):
        (clone / name).symlink_to(REPOSITORY / name)
    (clone / "config").mkdir()
    shutil.copy(REPOSITORY / "config" / "config.env.example", clone / "config")
    return clone


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUTPUT_DIR as the quickstart has it filled: the dataset file, and a few photographs, one of them too small."""
    output = tmp_path_factory.mktemp("output")
    (output / "multidatabackend.json").write_text(DATASET_FILE)
    photographs = output / "datasets" / "pseudo-camera-10k"
    draw(photographs / "a red barn.jpg", color=(180, 20, 20), size=(1280, 960))
    draw(photographs / "sky.png", color=(90, 140, 250), size=(720, 720), seed=1)
    draw(photographs / "thumbnail.png", color=(0, 0, 0), size=(640, 480), seed=2)
    return output


def write_config(clone: Path, *, model: Path, output: Path, more: str = "") -> Path:
    """config/config.env, copied and modified as the quickstart says."""
    said = {
        "MODEL_TYPE": "lora",
        "STABLE_DIFFUSION_3": "true",
        "MODEL_NAME": str(model),
        "OUTPUT_DIR": str(output),
        "VALIDATION_RESOLUTION": "1024x1024,1280x768",
        "VALIDATION_GUIDANCE": "3.0",
        "MIXED_PRECISION": "no",
        "USE_XFORMERS": "false",
    }
    lines = (clone / "config" / "config.env.example").read_text().splitlines()
    for name, value in said.items():
        places = [number for number, line in enumerate(lines) if line.startswith(f"export {name}=")]
        line = f'export {name}="{value}"'
        if places:
            lines[places[0]] = line
        else:
            lines.append(line)
    config = clone / "config" / "config.env"
    config.write_text("\n".join(lines) + "\n" + more)
    return config


def start(config: Path, *flags: str) -> int:
    """What train.sh does with an env file, in this process."""
    import train
    from helpers.config.env.launch import translated

    return train.main(translated(config, flags=[*SHORT, *flags]).arguments)


def test_the_quickstart_with_its_quantized_section(clone: Path, output: Path, tiny_pipeline: Path) -> None:
    write_config(clone, model=tiny_pipeline, output=output, more=QUANTIZED)
    before = images(output)
    environment = {name: value for name, value in os.environ.items() if name != "ENV"}
    finished = subprocess.run(
        ["bash", clone / "train.sh", *SHORT],
        env={**environment, "VENV_PATH": sys.prefix, "HF_HOME": str(clone / "hf")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    said = finished.stdout + finished.stderr
    assert "USE_XFORMERS" in said, "that it has no meaning is told"
    assert encoded(finished.stdout) == {ID: 2, "clip_l": 5, "clip_g": 5, "t5": 5}
    assert "thumbnail.png" in said and "minimum_image_size" in said
    assert f"{ID} 1024x1024: 2 images" in said
    assert any((output / "cache/vae/sd3/pseudo-camera-10k").glob("shard-*"))
    assert any((output / "cache/text/sd3/pseudo-camera-10k").glob("shard-*"))
    assert (output / "pytorch_lora_weights.safetensors").is_file()
    for step in (0, 1):
        drawn = sorted(path.name for path in output.glob(f"validation_images/step_{step}/**/*.png"))
        assert len(drawn) == 2, drawn
    assert images(output) == before


@pytest.mark.parametrize("level", ["int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto"])
def test_every_level_of_quantizing_runs(
    level: str, clone: Path, tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base and the first two text encoders at that level, and T5, of which nothing is said, with the base."""
    quantized = []
    real = helpers.training.loop.train

    def looked_at(step_context: StepContext, **how: Any) -> None:
        weights = step_context.denoiser.parameters()
        quantized.extend((each.bits, each.codes.dtype) for each in weights if isinstance(each, QuantizedWeight))
        real(step_context, **how)

    monkeypatch.setattr(helpers.training.run, "train", looked_at)
    more = QUANTIZED.replace('int8-quanto"', f'{level}"').replace("no_change", level)
    config = write_config(clone, model=tiny_pipeline, output=tmp_path, more=more)
    assert start_small(config, tmp_path) == 0
    assert (tmp_path / "pytorch_lora_weights.safetensors").is_file()
    assert len(quantized) > 20
    assert set(quantized) == {(LEVELS[level].bits, LEVELS[level].codes)}


def test_the_second_option_beside_a_quantized_base(clone: Path, tmp_path: Path, tiny_pipeline: Path) -> None:
    config = write_config(clone, model=tiny_pipeline, output=tmp_path, more=QUANTIZED + OPTION_TWO)
    assert start_small(config, tmp_path) == 0


def start_small(config: Path, output: Path) -> int:
    """A run of the quickstart's dataset file at a size that takes a second."""
    (output / "multidatabackend.json").write_text(
        DATASET_FILE.replace('"resolution": 1.0', '"resolution": 0.005').replace('_size": 0.5', '_size": 0.001')
    )
    draw(output / "datasets" / "pseudo-camera-10k" / "grass.jpg", color=(20, 160, 40), size=(100, 80))
    return start(config, "--validation_resolution=64x64")


def images(output: Path) -> dict[str, tuple[bytes, int]]:
    """Everything in the folder of photographs."""
    files = (output / "datasets").rglob("*")
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files if file.is_file()}


def test_what_is_embedded_here_is_what_the_documents_say() -> None:
    """The quickstart that people follow now still shows this dataset file."""
    assert DATASET_FILE in (REPOSITORY / "documentation" / "quickstart" / "SD3.md").read_text()
