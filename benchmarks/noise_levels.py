"""Which noise levels to train on: the validation loss by σ of runs that differ only in the distribution of σ.

`python -m benchmarks.noise_levels FOLDER [--photographs IMAGES]` trains the demo's LoRA with FLOW_SHIFT 1, FLOW_SHIFT 3
and uniform noise levels, for each seed, on the CPU, and prints tables. With a folder of photographs it also trains a
LoRA of squares of them. FOLDER stores the runs: a second start skips the finished ones, and `--table` only prints. Each
row is a mean over seeds, ± the standard deviation.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from PIL import Image, ImageOps

import train
from helpers.config.env.launch import translated
from helpers.config.options.training import ObjectiveOptions
from helpers.models.flow_matching import sample_sigma
from tools.demo_model.style_figures import Images, draw, share_covered, shown

REPOSITORY = Path(__file__).resolve().parents[1]
SETTINGS: Mapping[str, tuple[float, str]] = {
    "shift 1": (1.0, "logit_normal"),
    "shift 3": (3.0, "logit_normal"),
    "uniform": (1.0, "uniform"),
}
"""FLOW_SHIFT and TIMESTEP_SAMPLING by name."""

SEEDS = (42, 1, 2, 3, 4)
QUARTERS = ("0.00-0.25", "0.25-0.50", "0.50-0.75", "0.75-1.00")
EARLY_STEP, MEASURED_EVERY_STEPS = 150, 50
TILE_PX, TILES = 64, 3
EACH_TRAINED_SHOWN = 4
"""Of the demo's images that training has, every fourth is generated to see the style; of the others, all."""

Point = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is trained on. images, held_out: folders. captions: a `caption_strategy`."""

    name: str
    images: Path
    held_out: Path
    steps: int
    captions: str = "filename"


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One run in its own folder, which keeps what it measured."""

    subject: Subject
    setting: str
    seed: int
    folder: Path

    @property
    def output(self) -> Path:
        return self.folder / f"{self.subject.name}, {self.setting}, seed {self.seed}"

    @property
    def is_done(self) -> bool:
        return (self.output / "pytorch_lora_weights.safetensors").exists()

    @cached_property
    def points(self) -> list[Point]:
        """Measurements of the validation loss, by step."""
        return [json.loads(line) for line in (self.output / "logs" / "held_out.jsonl").read_text().splitlines()]

    def train(self) -> None:
        """Run the trainer in this process, from the repository's folder."""
        self.output.mkdir(parents=True, exist_ok=True)
        datasets = self.output / "multidatabackend.json"
        datasets.write_text(json.dumps(list(self._datasets())))
        shift, sampling = SETTINGS[self.setting]
        flags = {
            "data_backend_config": datasets,
            "output_dir": self.output,
            "flow_shift": shift,
            "timestep_sampling": sampling,
            "seed": self.seed,
            "max_train_steps": self.subject.steps,
            "checkpointing_steps": self.subject.steps,
            "eval_steps_interval": MEASURED_EVERY_STEPS,
            "validation_steps": 10 * self.subject.steps,
            "validation_num_inference_steps": 1,
            "resume_from_checkpoint": "none",
            "torch_num_threads": 1,
            "log_level": "error",
        }
        words = [f"--{name}={value}" for name, value in flags.items()]
        status = train.main(translated(Path("config/demo/config.env"), flags=words).arguments)
        assert status == 0, f"the trainer ended with status {status}: {self.output}/logs says why"

    def _datasets(self) -> Iterator[dict[str, Any]]:
        cache = self.folder / "cache" / self.subject.name
        for kind, images in (("image", self.subject.images), ("eval", self.subject.held_out)):
            yield {
                "id": kind,
                "type": "local",
                "dataset_type": kind,
                "instance_data_dir": str(images),
                "cache_dir_vae": str(cache / kind),
                "crop": False,
                "resolution": TILE_PX,
                "resolution_type": "pixel",
                "caption_strategy": self.subject.captions,
            }
        yield {"id": "captions", "type": "local", "dataset_type": "text_embeds", "cache_dir": str(cache / "text")}


class Style:
    """How far a LoRA carries the demo's model to the new style: what its validation loss alone does not show."""

    def __init__(self) -> None:
        self.pipeline: Any = StableDiffusion3Pipeline.from_pretrained(
            REPOSITORY / "config/demo/pipeline", torch_dtype=torch.float32
        )
        self.pipeline.set_progress_bar_config(disable=True)
        captions, images = shown(REPOSITORY / "config/demo/style/images")
        self.sets = {
            "trained": (captions[::EACH_TRAINED_SHOWN], images[::EACH_TRAINED_SHOWN]),
            "unseen": shown(REPOSITORY / "config/demo/style/held_out"),
        }
        self.before = self._drawn()

    def shares(self, run: Path) -> dict[str, float]:
        """The share of the way to the new style, of things that training had and of others; kept beside the run."""
        self.pipeline.load_lora_weights(run)
        after = self._drawn()
        self.pipeline.unload_lora_weights()
        return {name: share_covered(self.before[name], after[name], images) for name, (_, images) in self.sets.items()}

    def _drawn(self) -> dict[str, Images]:
        return {name: draw(self.pipeline, captions) for name, (captions, _) in self.sets.items()}


def tiles(photographs: Path, folder: Path) -> tuple[Path, Path]:
    """Nine squares of each photograph, 64 px, without overlap: eight to train on, and the middle one held out.

    Those that an earlier start made are used again.
    """
    trained, held_out = folder / "tiles" / "images", folder / "tiles" / "held_out"
    if trained.is_dir():
        return trained, held_out
    for part in (trained, held_out):
        part.mkdir(parents=True)
    edge = TILES * TILE_PX
    for file in sorted(photographs.iterdir()):
        image = ImageOps.fit(Image.open(file).convert("RGB"), (edge, edge), Image.Resampling.LANCZOS)
        for row, column in itertools.product(range(TILES), repeat=2):
            part = held_out if row == column == TILES // 2 else trained
            place = part / f"{file.stem}-{row}-{column}"
            left, top = column * TILE_PX, row * TILE_PX
            image.crop((left, top, left + TILE_PX, top + TILE_PX)).save(f"{place}.png")
            Path(f"{place}.txt").write_text(f"a photograph of {file.stem}")
    return trained, held_out


def subjects_of(arguments: argparse.Namespace) -> Iterator[Subject]:
    """The demo's style, and photographs where a folder of them is named."""
    style = REPOSITORY / "config/demo/style"
    yield Subject(name="demo", images=style / "images", held_out=style / "held_out", steps=450)
    if arguments.photographs is not None:
        images, held_out = tiles(arguments.photographs, arguments.folder)
        yield Subject(name="photographs", images=images, held_out=held_out, steps=300, captions="textfile")


def row(points: Sequence[Point]) -> str:
    """Mean losses by quarter of σ and of all σ, over runs; ± of the last one is between runs."""
    parts = [statistics.mean(point["by_sigma"][quarter]["loss"] for point in points) for quarter in range(4)]
    return " | ".join([*(f"{part:.2f}" for part in parts), mean_of([point["mean"] for point in points])])


def mean_of(figures: Sequence[float]) -> str:
    """Their mean, with the standard deviation of several."""
    spread = f" ± {statistics.stdev(figures):.2f}" if len(figures) > 1 else ""
    return f"{statistics.mean(figures):.2f}{spread}"


def lowest(points: Sequence[Point]) -> Point:
    """Where the loss of all σ is least."""
    return min(points, key=lambda point: point["mean"])


def tables(subject: Subject, trials: Sequence[Trial]) -> Iterator[str]:
    """What the trials of a subject measured, as lines of Markdown."""
    images = trials[0].points[0]["images"]
    bases = {trial.seed: trial.points[0] for trial in trials}
    yield f"\n{subject.name}: {subject.steps} steps, validation loss over {images} images by σ\n"
    yield f"| noise levels | seeds | weights of | {' | '.join(QUARTERS)} | all |"
    yield f"|---|---|---|{'---|' * len(QUARTERS)}---|"
    yield f"| none: the base | {len(bases)} | | {row(list(bases.values()))} |"
    for setting in SETTINGS:
        runs = [trial.points for trial in trials if trial.setting == setting]
        best = [lowest(points[1:]) for points in runs]
        steps = ", ".join(str(point["step"]) for point in best)
        early = [next(point for point in points if point["step"] == EARLY_STEP) for points in runs]
        for what, points in (
            (f"the lowest (steps {steps})", best),
            (f"step {EARLY_STEP}", early),
            (f"step {subject.steps}, the end", [points[-1] for points in runs]),
        ):
            yield f"| {setting} | {len(points)} | {what} | {row(points)} |"


def share_table(trials: Sequence[Trial]) -> Iterator[str]:
    """How far the style came, at the end of the trials whose folder says so."""
    yield "\nshare of the way to the new style at the end\n"
    yield "| noise levels | seeds | things trained on | things not seen in training |\n|---|---|---|---|"
    for setting in SETTINGS:
        files = [trial.output / "shares.json" for trial in trials if trial.setting == setting]
        found = [json.loads(file.read_text()) for file in files if file.exists()]
        if found:
            cells = [mean_of([share[name] for share in found]) for name in ("trained", "unseen")]
            yield f"| {setting} | {len(found)} | {' | '.join(cells)} |"


def sample_table() -> Iterator[str]:
    """Where each setting takes its samples from."""
    yield "\nshare of the training samples by σ\n"
    yield f"| noise levels | below 0.20 | {' | '.join(QUARTERS)} |\n|---|---|{'---|' * len(QUARTERS)}"
    for name, (shift, sampling) in SETTINGS.items():
        objective = ObjectiveOptions(timestep_sampling=sampling)
        drawn = sample_sigma(torch.Generator().manual_seed(0), objective=objective, shift=shift, shape=(2**20,)).numpy()
        counts = np.histogram(drawn, bins=np.linspace(0, 1, 5))[0] / len(drawn)
        yield f"| {name} | {(drawn < 0.2).mean():.1%} | {' | '.join(f'{count:.1%}' for count in counts)} |"


def trials_of(subjects: Sequence[Subject], *, seeds: Sequence[int], folder: Path) -> Iterator[Trial]:
    """All runs, seed by seed, so that the finished ones can be compared at any time."""
    for seed, subject, setting in itertools.product(seeds, subjects, SETTINGS):
        yield Trial(subject=subject, setting=setting, seed=seed, folder=folder)


def work(trials: Sequence[Trial]) -> None:
    """Run what is not done yet; the style's share is measured of the demo's runs."""
    style = None
    for number, trial in enumerate(trials, start=1):
        if not trial.is_done:
            print(f"{number} of {len(trials)}: {trial.output.name}", flush=True)
            trial.train()
        shares = trial.output / "shares.json"
        if trial.subject.name == "demo" and not shares.exists():
            style = style or Style()
            shares.write_text(json.dumps(style.shares(trial.output)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photographs", type=Path, help="a folder of image files, and of nothing else")
    parser.add_argument("--seeds", type=int, default=5, choices=range(1, len(SEEDS) + 1), help="how many")
    parser.add_argument("--table", action="store_true", help="print what is measured so far")
    arguments = parser.parse_args()
    arguments.folder = arguments.folder.resolve()
    arguments.photographs = arguments.photographs and arguments.photographs.resolve()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(REPOSITORY):
        subjects = list(subjects_of(arguments))
        trials = list(trials_of(subjects, seeds=SEEDS[: arguments.seeds], folder=arguments.folder))
        if not arguments.table:
            work(trials)
    for subject in subjects:
        done = [trial for trial in trials if trial.subject is subject and trial.is_done]
        if done:
            print(*tables(subject, done), sep=os.linesep)
    print(*share_table([trial for trial in trials if trial.subject.name == "demo"]), *sample_table(), sep=os.linesep)


if __name__ == "__main__":
    main()
