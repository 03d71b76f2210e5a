"""Every kind of adapter goes on exactly, and draws in plain diffusers what the trainer drew."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.runs.harness import SmallRun, copied, draw_set, stop_after

PROMPT = "red square"
STEPS = 3
KINDS: dict[str, dict[str, Any]] = {
    "DoRA": {"use_dora": True, "lora_dropout": 0.1},
    "rank-stabilised DoRA on int8": {"use_dora": True, "use_rslora": True, "base_model_precision": "int8-quanto"},
    "PiSSA": {"lora_init_type": "pissa", "use_ema": True},
    "LoftQ on int4": {"lora_init_type": "loftq", "base_model_precision": "int4-quanto"},
    "LoKr": {"lora_type": "lycoris", "lycoris_config": "config/lycoris_config.json.example"},
    "LoHa on int8": {"lora_type": "lycoris", "lycoris_config": "{loha}", "base_model_precision": "int8-quanto"},
}
LOHA = {"algo": "loha", "linear_dim": 2, "linear_alpha": 2, "apply_preset": {"target_module": ["Attention"]}}

TARGETS = {"linear_dim": 4, "linear_alpha": 2, "apply_preset": {"target_module": ["Attention"]}}
ON_THE_CARD: dict[str, dict[str, Any]] = {
    "LoRA": {"lora_alpha": 2, "lora_ranks": "to_q=6"},
    "DoRA": {"lora_alpha": 2, "use_dora": True},
    "rank-stabilised LoRA": {"lora_alpha": 2, "use_rslora": True},
    "LoKr": {"algo": "lokr", "factor": 4, "linear_dim": 2, "linear_alpha": 4},
    "LoHa": {"algo": "loha"},
    "LoCon": {"algo": "lora"},
    "full": {"algo": "full"},
}


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    settings = {
        "max_train_steps": STEPS,
        "checkpointing_steps": STEPS,
        "validation_prompt": PROMPT,
        "validation_guidance": 1.0,
        "learning_rate": 0.02,
    }
    run = SmallRun(tmp_path_factory.mktemp("adapters"), tiny_pipeline, settings=settings)
    draw_set(run.output / "datasets" / "colors")
    assert run.start(cache_only=True) == 0
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_exactly_and_its_file_draws_elsewhere(
    kind: str, cached: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loha.json").write_text(json.dumps(LOHA))
    settings = {name: str(tmp_path / "loha.json") if said == "{loha}" else said for name, said in KINDS[kind].items()}
    straight, stopped = (copied(cached, tmp_path / name, **settings) for name in ("straight", "stopped"))
    assert straight.start() == 0
    with monkeypatch.context() as patched:
        stop_after(2, patched)
        assert stopped.start() == 143
    assert stopped.start() == 0
    assert all_equal(stopped.remembered(STEPS), straight.remembered(STEPS))
    assert all_equal(stopped.weights(), straight.weights())
    before, ours = (drawn_at(straight, step) for step in (0, STEPS))
    assert np.abs(ours - before).max() > 10
    if "base_model_precision" not in KINDS[kind]:
        file = straight.output / "pytorch_lora_weights.safetensors"
        theirs = drawn_by_diffusers(cached.pipeline, file, is_lycoris="lora_type" in settings)
        assert np.abs(ours - theirs).max() <= 1


@pytest.mark.parametrize("kind", ON_THE_CARD)
def test_the_card_s_code_generates_what_was_trained(
    kind: str, cached: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alpha is not the rank. In fp32 it is the trainer's image, and as the card has it, in bf16, nearly so."""
    settings = ON_THE_CARD[kind]
    if "algo" in settings:
        (tmp_path / "lycoris.json").write_text(json.dumps({**TARGETS, **settings}))
        settings = {"lora_type": "lycoris", "lycoris_config": tmp_path / "lycoris.json"}
    run = copied(cached, tmp_path, validation_steps=STEPS, **settings)
    assert run.start() == 0
    before, ours = (drawn_at(run, step) for step in (0, STEPS))
    (code,) = re.findall(r"```python\n(.*?)```", (run.output / "README.md").read_text(), flags=re.DOTALL)
    (run.output / run.pipeline.name).symlink_to(run.pipeline)
    monkeypatch.chdir(run.output)
    assert np.abs(ours - before).max() > 10
    for text, levels in ((code.replace("bfloat16", "float32"), 1), (code, 12)):
        exec(text, {})
        with Image.open("image.png") as theirs:
            assert np.abs(ours - np.asarray(theirs).astype(np.int64)).max() <= levels


def all_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def drawn_at(run: SmallRun, step: int) -> NDArray[np.int64]:
    """The pixels [H, W, 3] of the image drawn after `step` steps."""
    (file,) = (run.output / "validation_images" / f"step_{step}").iterdir()
    return np.asarray(Image.open(file)).astype(np.int64)


def drawn_by_diffusers(base: Path, file: Path, *, is_lycoris: bool) -> NDArray[np.float32]:
    """The same image of plain diffusers, and lycoris, which know of the run its base model and this file."""
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline

    pipeline: Any = StableDiffusion3Pipeline.from_pretrained(base)
    if is_lycoris:
        from lycoris import create_lycoris_from_weights

        network, _ = create_lycoris_from_weights(1.0, str(file), pipeline.transformer)
        network.apply_to()
    else:
        pipeline.load_lora_weights(file.parent, weight_name=file.name)
    pipeline.set_progress_bar_config(disable=True)
    embeds, _, pooled, _ = pipeline.encode_prompt(
        PROMPT, PROMPT, PROMPT, max_sequence_length=77, do_classifier_free_guidance=False
    )
    # The cache holds 16 bits of what captions are encoded as.
    (image,) = pipeline(
        prompt_embeds=embeds.bfloat16().float(),
        pooled_prompt_embeds=pooled.bfloat16().float(),
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(42),
        output_type="np",
    ).images
    return image * 255
