"""How near the memory estimate comes to what real runs need at their highest.

`python -m benchmarks.memory` prints estimate, measured peak and their ratio for caching, training and validation of a
random SD3 of 55 M parameters, in the kinds of training and precision that there are: resident memory above what the
libraries take, on a processor; what PyTorch asked for, on a CUDA device. Aim: every ratio between 0.8 and 1.2.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helpers.models.sd3.memory.architecture import read_architecture
from helpers.models.sd3.memory.estimate import MemoryEstimate, estimate_memory
from helpers.reporting.events import Event, StageFinished, StageStarted, StepFinished, TrainingStarted
from helpers.reporting.progress import PeakMemory

REPOSITORY = Path(__file__).resolve().parents[1]
# Has glibc give memory back at once, so that what is measured is what is in use and not what it keeps for later.
EXACT_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
USUAL: Mapping[str, Any] = {
    "max_train_steps": 2,
    "mixed_precision": "no",
    "resolution": 256,
    "resolution_type": "pixel",
    "train_batch_size": 2,
    "vae_batch_size": 2,
    "validation_prompt": "a red square",
    "validation_resolution": "256x256",
    "validation_num_inference_steps": 1,
    "torch_num_threads": 1,
    "max_workers": 1,
}
SWEEP: Mapping[str, Mapping[str, Any]] = {
    "LoRA": {},
    "LoRA, kept activations": {"gradient_checkpointing": False},
    "LoRA of the MLP, kept activations": {"gradient_checkpointing": False, "lora_target": "attention+mlp"},
    "LoRA, bf16": {"mixed_precision": "bf16"},
    "LoRA, bf16, kept activations": {"mixed_precision": "bf16", "gradient_checkpointing": False},
    "LoRA on int8": {"base_model_precision": "int8-quanto"},
    "LoRA on int8, kept activations": {"base_model_precision": "int8-quanto", "gradient_checkpointing": False},
    "LoRA on int4, bf16": {"base_model_precision": "int4-quanto", "mixed_precision": "bf16"},
    "DoRA": {"use_dora": True},
    "DoRA, kept activations": {"use_dora": True, "gradient_checkpointing": False},
    "LoRA by SOAP": {"optimizer": "soap", "lora_rank": 64},
    "LoftQ on int4": {"base_model_precision": "int4-quanto", "lora_init_type": "loftq", "lora_rank": 64},
    "full": {"model_type": "full"},
    "full, kept activations": {"model_type": "full", "gradient_checkpointing": False},
    "full, adamw_bf16": {"model_type": "full", "optimizer": "adamw_bf16"},
    "full, bf16": {"model_type": "full", "mixed_precision": "bf16"},
    "full, biases": {"model_type": "full", "layer_freeze_strategy": "bitfit"},
    "full, half of the blocks": {"model_type": "full", "freeze_modules": "transformer_blocks.[0-2]"},
    "full, averaged": {"model_type": "full", "use_ema": True},
}


class Peaks:
    """A listener that notes the most memory of each stage, and of the steps between them."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._training: PeakMemory | None = None

    def handle(self, event: Event) -> None:
        match event:
            case TrainingStarted():
                self._training = PeakMemory()
            case StepFinished() if self._training is not None:
                self._note("training", self._training.device_bytes() or self._training.resident_bytes())
            case StageStarted():
                self._training = None
            case StageFinished():
                self._note(kind_of(event.name), event.peak_device_memory_bytes or event.peak_memory_bytes)
                self._training = PeakMemory()

    def close(self) -> None:
        """There is nothing to close."""

    def _note(self, kind: str, size_bytes: int) -> None:
        self.peaks[kind] = max(self.peaks.get(kind, 0), size_bytes)


def kind_of(stage: str) -> str:
    """What a stage belongs to."""
    if stage.startswith("encode"):
        return "caching"
    return "validation" if stage.startswith("generate") else stage.split()[0]


def measure(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """Run `train.py` here; the peaks in bytes, on a processor above what it takes for the same run of a tiny model."""
    import torch

    peaks_of_run(folder, settings, model="tiny")
    baseline = 0 if torch.cuda.is_available() else resident_bytes()
    found = peaks_of_run(folder, settings, model="memory")
    return {kind: peak - baseline for kind, peak in found.items()}


def peaks_of_run(folder: Path, settings: Mapping[str, Any], *, model: str) -> dict[str, int]:
    """The peaks of one run of `train.py` with empty caches."""
    import train
    from helpers.config.datasets.file import load_datasets
    from helpers.config.parse import parse_arguments
    from helpers.reporting.reporter import Reporter

    listener = Peaks()
    with tempfile.TemporaryDirectory(dir=folder) as output:
        write_datasets(Path(output), images=folder / "images")
        config = parse_arguments(arguments_of(settings, model=folder / model, output=Path(output)))
        assert train.run(config, load_datasets(config), Reporter([listener])) == 0
    return listener.peaks


def write_datasets(output: Path, *, images: Path) -> None:
    """The dataset file of a run."""
    entry = {"id": "squares", "type": "local", "instance_data_dir": str(images), "cache_dir_vae": "cache"}
    (output / "multidatabackend.json").write_text(json.dumps([entry]))


def resident_bytes() -> int:
    """The process's memory now, after what nobody needs any more was given back."""
    gc.collect()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def arguments_of(settings: Mapping[str, Any], *, model: Path, output: Path) -> list[str]:
    """The flags of a run."""
    said = {**USUAL, **settings, "output_dir": output, "pretrained_model_name_or_path": model}
    return [f"--{name}={value}" for name, value in said.items()]


def prepare(folder: Path) -> None:
    """Write two models and two images."""
    from PIL import Image

    from helpers.models.sd3.tiny import make_tiny_pipeline

    for size in ("tiny", "memory"):
        make_tiny_pipeline(folder / size, size=size)
    for name, color in (("red", (220, 30, 30)), ("blue", (30, 40, 220))):
        (folder / "images").mkdir(exist_ok=True)
        Image.new("RGB", (400, 400), color).save(folder / "images" / f"a {name} square.png")


def peaks_of(folder: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """The peaks of a run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", "--measure", str(folder), json.dumps(dict(settings))],
        cwd=REPOSITORY,
        env={**os.environ, **EXACT_ALLOCATOR},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def estimate_of(folder: Path, settings: Mapping[str, Any]) -> MemoryEstimate:
    """What is estimated for the same run."""
    import torch

    from helpers.config.parse import parse_arguments
    from helpers.models.memory import Workload
    from helpers.training.distributed.runtime import resolve_precision

    model = folder / "memory"
    config = parse_arguments(arguments_of(settings, model=model, output=folder))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    edge = int(config.data.resolution)
    workload = Workload.from_config(
        config,
        device=device.type,
        precision=resolve_precision(config.precision, device),
        threads=config.run.torch_num_threads or 1,
        width=edge,
        height=edge,
        vae_batch_size=config.cache.vae_batch_size,
    )
    architecture = read_architecture(
        transformer=model / "transformer",
        text_encoders=tuple(model / name for name in ("text_encoder", "text_encoder_2", "text_encoder_3")),
        vae=model / "vae",
    )
    return estimate_memory(architecture, workload)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        print(f"{'':36}{'':12}{'estimate':>10}{'measured':>10}{'ratio':>7}")
        only = parser.parse_args().only
        for kind, settings in SWEEP.items():
            if only in kind:
                show(kind, estimate_of(folder, settings), peaks_of(folder, settings))


def show(kind: str, estimate: MemoryEstimate, peaks: Mapping[str, int]) -> None:
    for part in ("caching", "training", "validation"):
        expected = getattr(estimate, f"{part}_bytes") - estimate.overhead_bytes
        ratio = expected / peaks[part]
        print(f"{kind:36}{part:12}{expected / 1e6:7.0f} MB{peaks[part] / 1e6:7.0f} MB{ratio:7.2f}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), json.loads(sys.argv[3]))))
    else:
        main()
