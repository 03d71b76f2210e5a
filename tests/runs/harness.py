"""A small run in a folder of its own: images, a dataset file, settings, and the real `train.main`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from helpers.training import loop

REPOSITORY = Path(__file__).resolve().parents[2]

DEFAULTS: Mapping[str, Any] = {
    "max_train_steps": 6,
    "train_batch_size": 2,
    "gradient_accumulation_steps": 2,
    "checkpointing_steps": 2,
    "checkpoints_total_limit": 10,
    "learning_rate": 0.01,
    "lora_rank": 4,
    "mixed_precision": "no",
    "resolution": 64,
    "resolution_type": "pixel",
    "aspect_bucket_alignment": 16,
    "write_batch_size": 2,
    "validation_num_inference_steps": 2,
    "validation_resolution": "64x64",
    # PyTorch's threads wait for each other by spinning: on a busy machine two are twenty times slower than one.
    "torch_num_threads": 1,
}

COLORS: Mapping[str, tuple[int, int, int]] = {
    "red": (220, 30, 30),
    "green": (20, 180, 40),
    "blue": (30, 40, 220),
    "yellow": (230, 220, 20),
    "black": (5, 5, 5),
    "white": (250, 250, 250),
    "purple": (140, 30, 180),
}


def draw(path: Path, *, color: tuple[int, int, int], size: tuple[int, int], seed: int = 0) -> None:
    """An image of one color with a little grain, in the format that its ending names."""
    grain = np.random.default_rng(seed).integers(-5, 6, (size[1], size[0], 3))
    pixels = np.clip(np.array(color) + grain, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def draw_set(folder: Path) -> None:
    """Seven images in three shapes, each called by its color."""
    sizes = [(80, 80), (96, 96), (128, 80), (80, 80), (64, 96), (128, 80), (90, 90)]
    for seed, ((name, color), size) in enumerate(zip(COLORS.items(), sizes, strict=True)):
        draw(folder / f"{name} square.png", color=color, size=size, seed=seed)


@dataclass
class SmallRun:
    """One OUTPUT_DIR with what leads to it; `start` may be called again, as a person would."""

    folder: Path
    pipeline: Path
    settings: dict[str, Any] = field(default_factory=dict)
    datasets: list[dict[str, Any]] = field(default_factory=lambda: [image_dataset()])

    @property
    def output(self) -> Path:
        return self.folder / "output"

    def arguments(self, **more: Any) -> list[str]:
        """The command line of this run; `more` win over the run's own settings."""
        self.output.mkdir(parents=True, exist_ok=True)
        (self.output / "multidatabackend.json").write_text(json.dumps(self.datasets))
        said = {
            "pretrained_model_name_or_path": self.pipeline,
            "output_dir": self.output,
            **DEFAULTS,
            **self.settings,
            **more,
        }
        return [f"--{name}={value}" for name, value in said.items() if value is not None]

    def start(self, **more: Any) -> int:
        """Run `train.py` in this process; its exit status."""
        import train

        return train.main(self.arguments(**more))

    def process(self, *command: str, **more: Any) -> subprocess.Popen[str]:
        """Run `train.py` (or the script in `command`) in a process of its own."""
        script = command or (str(REPOSITORY / "train.py"),)
        return subprocess.Popen(
            [sys.executable, *script, *self.arguments(**more)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": os.pathsep.join((str(REPOSITORY), os.environ.get("PYTHONPATH", "")))},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def killed(self, place: str, *, at_call: int, **more: Any) -> None:
        """Start the run and have it killed (SIGKILL) at the n-th time that it comes to `place`."""
        process = self.process(str(REPOSITORY / "tests/runs/killed.py"), place, str(at_call), **more)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, output

    def weights(self) -> dict[str, torch.Tensor]:
        """The finished LoRA."""
        return load_file(self.output / "pytorch_lora_weights.safetensors")

    def remembered(self, step: int) -> dict[str, torch.Tensor]:
        """All tensors of a checkpoint by file and name: what is trained, and what its optimizer remembers."""
        files = (self.output / f"checkpoint-{step}").glob("*.safetensors")
        return {f"{file.name} {name}": tensor for file in files for name, tensor in load_file(file).items()}

    def saved_steps(self) -> list[int]:
        """The steps of the checkpoints that stand."""
        return sorted(int(folder.name.removeprefix("checkpoint-")) for folder in self.output.glob("checkpoint-*"))


def copied(run: SmallRun, folder: Path, **settings: Any) -> SmallRun:
    """Another run over the same images and caches."""
    shutil.copytree(run.output, folder / "output")
    return SmallRun(folder, run.pipeline, settings=run.settings | settings)


def forget_shift(checkpoint: Path) -> None:
    """Leave the checkpoint as versions did whose default was the scheduler's shift."""
    file = checkpoint / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["configuration"]["objective"]["flow_shift"] = None
    file.write_text(json.dumps(manifest))


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process told to end while it takes the step of that number."""

    def taken(*arguments: Any, **named: Any) -> Any:
        if named["state"].step + 1 == step:
            signal.raise_signal(signal.SIGTERM)
        return take_step(*arguments, **named)

    take_step = loop.take_step
    monkeypatch.setattr(loop, "take_step", taken)


def image_dataset(**more: Any) -> dict[str, Any]:
    """An entry for the images in OUTPUT_DIR/datasets/colors."""
    return {
        "id": "colors",
        "type": "local",
        "instance_data_dir": "datasets/colors",
        "caption_strategy": "filename",
        "cache_dir_vae": "cache/vae",
        **more,
    }


def same(first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor]) -> bool:
    """Bit for bit equal, names included, and not trivially so."""
    assert first.keys() == second.keys()
    assert any(tensor.abs().sum() > 0 for name, tensor in first.items() if "lora_B" in name), "nothing was trained"
    return all(torch.equal(first[name], second[name]) for name in first)


def image_of(run: SmallRun, step: int) -> NDArray[np.int64]:
    """The pixels [H, W, 3] of the one image drawn after `step` steps."""
    (file,) = (run.output / "validation_images" / f"step_{step}").iterdir()
    return np.asarray(Image.open(file)).astype(np.int64)


def encoded(said: str) -> dict[str, int]:
    """What a run says that it encoded: images by dataset id, captions by encoder; nothing where all was cached."""
    lines = re.findall(r"^encode (?:images of|captions with) (\S+): (\d+) \w+ in ", said, flags=re.MULTILINE)
    return {name: int(count) for name, count in lines}
