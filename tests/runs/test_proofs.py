"""Every way to train: a run that was interrupted is the run that was not, and plain programs draw what it drew."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from helpers.models.sd3.tiny import make_tiny_pipeline
from tests.runs.elsewhere import Elsewhere
from tests.runs.harness import SmallRun, copied, draw_set, image_of

PROMPT = "red square"
STEPS, SAVED = 4, 3
SETTINGS = {
    "max_train_steps": STEPS,
    "checkpointing_steps": SAVED,
    "validation_steps": STEPS,
    "gradient_accumulation_steps": 1,
    "validation_prompt": PROMPT,
    "validation_guidance": 1.0,
    "learning_rate": 0.02,
    "lr_scheduler": "cosine",
    "caption_dropout_probability": 0.3,
    **{f"text_encoder_{number}_precision": "no_change" for number in (1, 2, 3)},
}
# The largest difference of any pixel, of 255, between the trainer's image and the one drawn elsewhere. Where both
# compute in fp32 it is the rounding to whole numbers, 0.5; in bf16, where formats differ here and there, 6.5 was seen.
ONE_ROUNDING, BF16 = 0.6, 9.0
VARIANTS: dict[str, dict[str, Any]] = {
    "SD3": {},
    "SD3.5 medium": {"dual_attention": True, "qk_norm": "rms_norm"},
    "SD3.5 large": {"qk_norm": "rms_norm"},
}


def lora(**settings: Any) -> dict[str, Any]:
    return {"lora_rank": 4, "lora_alpha": 3, "lora_dropout": 0.1, **settings}


def full(**settings: Any) -> dict[str, Any]:
    return {"model_type": "full", "learning_rate": 0.003, **settings}


def lycoris(algo: str, **settings: Any) -> dict[str, Any]:
    return {"lora_type": "lycoris", "lycoris_config": algo, **settings}


def on(level: str, **settings: Any) -> dict[str, Any]:
    return {"base_model_precision": f"{level}-quanto", **settings}


LYCORIS: dict[str, dict[str, Any]] = {
    "lokr": {"algo": "lokr", "linear_dim": 2, "linear_alpha": 1, "factor": 4},
    "loha": {"algo": "loha", "linear_dim": 2, "linear_alpha": 2},
    "full": {"algo": "full"},
}
ON_A_GPU = {"mixed_precision": "bf16"}  # which a GPU takes unsaid; the base is then held in bf16 too
EMA = {"use_ema": True, "ema_decay": 0.9, "ema_update_interval": 2}

EARLIER = "earlier.safetensors"

WAYS: dict[str, dict[str, Any]] = {
    "LoRA": lora(),
    "LoRA, bf16": lora(mixed_precision="bf16", base_model_default_dtype="fp32"),
    "gaussian": lora(lora_init_type="gaussian"),
    "PiSSA": lora(lora_init_type="pissa"),
    "OLoRA": lora(lora_init_type="olora"),
    "ranks of their own": lora(lora_ranks="attn.to_q=2,transformer_blocks.1=6"),
    "from a file": lora(init_lora=EARLIER),
    "rank-stabilised": lora(use_rslora=True),
    "DoRA": lora(use_dora=True),
    "rank-stabilised DoRA": lora(use_dora=True, use_rslora=True),
    "LoRA, averaged": lora(**EMA),
    "LoRA, schedule-free": lora(optimizer="adamw_schedulefree", lr_scheduler="constant"),
    "LoRA, with text encoders": lora(train_text_encoder=True, **EMA),
    "LoKr": lycoris("lokr"),
    "LoHa": lycoris("loha"),
    "full differences": lycoris("full", learning_rate=0.003),
    "LoRA on int8": lora(**on("int8")),
    "LoRA on int4": lora(**on("int4")),
    "LoRA on int2": lora(**on("int2")),
    "LoRA on fp8": lora(**on("fp8")),
    "DoRA on int8": lora(**on("int8", use_dora=True)),
    "DoRA on int4": lora(**on("int4", use_dora=True)),
    "DoRA on int2": lora(**on("int2", use_dora=True)),
    "DoRA on fp8": lora(**on("fp8", use_dora=True)),
    "PiSSA on int8": lora(**on("int8", lora_init_type="pissa")),
    "PiSSA on int4": lora(**on("int4", lora_init_type="pissa")),
    "OLoRA on int2": lora(**on("int2", lora_init_type="olora")),
    "LoKr on int8": lycoris("lokr", **on("int8")),
    "LoHa on int4": lycoris("loha", **on("int4")),
    "LoKr on int2": lycoris("lokr", **on("int2")),
    "LoHa on fp8": lycoris("loha", **on("fp8")),
    "full": full(),
    "full, computed in bf16": full(mixed_precision="bf16"),
    "full, pure bf16": full(optimizer="adamw_bf16"),
    "full, averaged": full(**EMA),
    "full, schedule-free": full(optimizer="adamw_schedulefree", lr_scheduler="constant"),
    "BitFit": full(layer_freeze_strategy="bitfit", learning_rate=0.02),
    "LoRA, all in bf16": lora(**ON_A_GPU),
    # Where noise levels are not shifted, four steps move its image less than twice what bf16 rounds.
    "DoRA, all in bf16": lora(use_dora=True, flow_shift="model", **ON_A_GPU),
    "PiSSA, all in bf16": lora(lora_init_type="pissa", **ON_A_GPU),
    "LoRA with text encoders, all in bf16": lora(train_text_encoder=True, **ON_A_GPU),
    "LoRA on int8, all in bf16": lora(**on("int8"), **ON_A_GPU),
    "LoKr, all in bf16": lycoris("lokr", learning_rate=0.05, **ON_A_GPU),
    "LoHa, all in bf16": lycoris("loha", **ON_A_GPU),
    "full differences, all in bf16": lycoris("full", learning_rate=0.003, **ON_A_GPU),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> dict[str, Path]:
    """Each kind of SD3; but for the transformer they are one, so that caches are good for all."""
    found = {}
    for number, (name, options) in enumerate(VARIANTS.items()):
        folder = found[name] = tmp_path_factory.mktemp("bases") / str(number)
        shutil.copytree(tiny_pipeline, folder)
        if options:
            other = make_tiny_pipeline(folder.with_name(f"{number}-alone"), **options)
            shutil.rmtree(folder / "transformer")
            shutil.copytree(other / "transformer", folder / "transformer")
    return found


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, bases: Mapping[str, Path]) -> SmallRun:
    run = SmallRun(tmp_path_factory.mktemp("proofs"), bases["SD3"], settings=SETTINGS)
    draw_set(run.output / "datasets" / "colors")
    assert run.start(cache_only=True) == 0
    return run


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory, cached: SmallRun) -> Path:
    """The LoRA that another run left."""
    run = copied(cached, tmp_path_factory.mktemp("earlier"), **lora(max_train_steps=1, seed=7, validation_prompt=""))
    assert run.start() == 0
    return run.output / "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def elsewhere(tiny_pipeline: Path) -> Elsewhere:
    return Elsewhere(tiny_pipeline, prompt=PROMPT)


def run_of(
    way: str, *, kind: str, cached: SmallRun, bases: Mapping[str, Path], earlier: Path, folder: Path
) -> SmallRun:
    settings = dict(WAYS[way])
    if "init_lora" in settings:
        settings["init_lora"] = shutil.copyfile(earlier, folder / EARLIER)
    if algo := settings.get("lycoris_config"):
        settings["lycoris_config"] = folder / "lycoris.json"
        said = {**LYCORIS[algo], "apply_preset": {"target_module": ["Attention", "FeedForward"]}}
        settings["lycoris_config"].write_text(json.dumps(said))
    run = copied(cached, folder, **settings)
    run.pipeline = bases[kind]
    return run


def left_by(run: SmallRun) -> dict[str, torch.Tensor]:
    """Every tensor of the last checkpoint and of what the run is for."""
    files = [*run.output.glob("*.safetensors"), *run.output.glob("pipeline/transformer/*.safetensors")]
    result = {f"{file} {name}": tensor for file in files for name, tensor in load_file(file).items()}
    assert result
    return run.remembered(STEPS) | result


def forget_all_after(run: SmallRun, step: int) -> None:
    """Leave the folder as a kill after that checkpoint would have."""
    shutil.rmtree(run.output / f"checkpoint-{STEPS}")
    shutil.rmtree(run.output / "validation_images" / f"step_{STEPS}")
    shutil.rmtree(run.output / "pipeline", ignore_errors=True)
    (run.output / "pytorch_lora_weights.safetensors").unlink(missing_ok=True)
    assert run.saved_steps() == [step]


def computes_in_fp32(run: SmallRun) -> bool:
    said = {**run.settings}
    plain = said.get("base_model_precision", "no_change") == "no_change" and said.get("optimizer") != "adamw_bf16"
    return plain and said.get("mixed_precision") != "bf16"


def rows() -> Iterator[Any]:
    """Each way on one of the kinds of SD3 in turn."""
    for number, way in enumerate(WAYS):
        kind = list(VARIANTS)[number % 3]
        yield pytest.param(way, kind, id=f"{way}, {kind}")


@pytest.mark.parametrize(("way", "kind"), list(rows()))
def test_an_interrupted_run_is_the_straight_one_and_draws_elsewhere_what_it_drew(
    way: str,
    kind: str,
    cached: SmallRun,
    bases: dict[str, Path],
    earlier: Path,
    elsewhere: Elsewhere,
    tmp_path: Path,
) -> None:
    run = run_of(way, kind=kind, cached=cached, bases=bases, earlier=earlier, folder=tmp_path)
    assert run.start() == 0
    straight, before, ours = left_by(run), image_of(run, 0), image_of(run, STEPS)
    forget_all_after(run, SAVED)
    assert run.start() == 0
    resumed = left_by(run)
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in straight.items())
    assert np.array_equal(image_of(run, STEPS), ours)
    numbers = {tensor.dtype for tensor in straight.values()}
    assert numbers <= {torch.float32, torch.bfloat16}, "a quantized tensor was written"
    off = np.abs(ours - elsewhere.drawn(run)).max()
    assert off <= (ONE_ROUNDING if computes_in_fp32(run) else BF16), "drawn otherwise elsewhere"
    assert np.abs(ours - before).max() > 2 * off, "the base draws this image too"
