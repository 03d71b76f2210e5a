"""The memory estimate follows the settings; tests/runs/test_memory_run.py holds it against measured peaks."""

import itertools
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from helpers.config.options.finetune import FullOptions
from helpers.config.options.model import PrecisionOptions
from helpers.config.parse import parse_arguments
from helpers.config.train_config import RunConfig
from helpers.models.memory import Workload
from helpers.models.sd3.memory.architecture import KNOWN
from helpers.models.sd3.memory.estimate import caching_memory, estimate_memory, frozen_bytes
from helpers.models.sd3.memory.trainable_parameters import trained_parameters

MEDIUM = KNOWN["SD3 medium"]
BF16 = PrecisionOptions(mixed_precision="bf16")
CONFIG = parse_arguments(["--pretrained_model_name_or_path=m", "--max_train_steps=1", "--output_dir=o"])
USUAL = Workload(device="cuda", precision=BF16)


def training_bytes(**changed: object) -> int:
    return estimate_memory(MEDIUM, replace(USUAL, **changed)).training_bytes  # type: ignore[arg-type]


def test_estimating_needs_neither_torch_nor_pydantic() -> None:
    heavy = "any(name in sys.modules for name in ('torch', 'pydantic'))"
    code = f"import sys, helpers.models.sd3.memory.estimate; sys.exit({heavy})"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_adapter_counts_rank_times_the_edges_of_its_layers() -> None:
    # 24 blocks of 8 square layers 1536 wide, less the last one's text query and text output.
    assert trained_parameters(MEDIUM.transformer, replace(USUAL, lora_rank=4)) == 4 * 2 * 1536 * (24 * 8 - 2)


def test_ranks_of_their_own_lengths_of_rows_starts_and_directions_are_counted() -> None:
    q_layers = 24 + 23  # of the images' stream, and of the text's, which ends before the last block
    ranked = replace(USUAL, lora_rank=4, lora_ranks=(("attn", 6), ("to_q", 8), ("add_q_proj", 8)))
    others = 24 * 8 - 2 - q_layers
    assert trained_parameters(MEDIUM.transformer, ranked) == 2 * 1536 * (8 * q_layers + 6 * others)
    plain, dora, start, soap = (
        estimate_memory(MEDIUM, replace(USUAL, **more)).training  # type: ignore[arg-type]
        for more in ({}, {"use_dora": True}, {"keeps_start": True}, {"optimizer": "soap"})
    )
    layers = 24 * 8 - 2
    assert dora.trained - plain.trained == dora.weights - plain.weights == 4 * 1536 * layers
    assert start.weights - plain.weights == plain.trained
    assert soap.optimizer - plain.optimizer == layers * 2 * (2 * 4 * 16**2)  # edges of 1536 are too long for it


def test_what_stays_as_it_is_of_a_full_model_takes_its_own_room_and_no_more() -> None:
    full = replace(USUAL, model_type="full")
    everything = MEDIUM.transformer.parameters
    biases = sum(numbers for name, numbers in MEDIUM.transformer.weights() if name.endswith(".bias"))
    assert (
        trained_parameters(MEDIUM.transformer, replace(full, full=FullOptions(layer_freeze_strategy="bitfit")))
        == biases
    )
    block = sum(layer.parameters for layer in MEDIUM.transformer.block(3))
    without = replace(full, full=FullOptions(freeze_modules="transformer_blocks.3"))
    chosen = FullOptions(train_modules="transformer_blocks.3,norm_out", freeze_modules="norm_out")
    alone = replace(full, full=chosen)
    assert everything - trained_parameters(MEDIUM.transformer, without) == block
    assert trained_parameters(MEDIUM.transformer, alone) == block
    whole, part = (estimate_memory(MEDIUM, each).training for each in (full, alone))
    assert whole.weights + whole.trained == part.weights + part.trained
    assert (part.gradients, part.optimizer) == (2 * block, 8 * block)  # numbers of two bytes


@pytest.mark.parametrize(
    "changed",
    [
        {"gradient_checkpointing": False},
        {"checkpointing_interval": 2},
        {"batch_size": 2},
        {"width": 1536},
        {"t5_tokens": 256},
        {"lora_rank": 128},
        {"lora_target": "attention+mlp", "gradient_checkpointing": False},
        {"model_type": "full", "precision": replace(BF16, base_model_default_dtype="bf16")},
        {"optimizer": "prodigy"},
        {"optimizer": "soap"},
        {"use_dora": True},
        {"keeps_start": True},
        {"keeps_average": True},
        {"lora_ranks": (("to_q", 64),)},
        {"trains_text": True},
        {"precision": PrecisionOptions(mixed_precision="no")},
    ],
    ids=str,
)
def test_what_needs_more_is_said_to_need_more(changed: dict[str, object]) -> None:
    less = {"gradient_checkpointing": False} if "lora_target" in changed else {}
    assert training_bytes(**changed) > training_bytes(**less)


def test_what_waits_elsewhere_takes_none_of_the_device_s_memory() -> None:
    away = [training_bytes(offload_blocks=count) for count in (0, 12, 24)]
    assert away == sorted(away, reverse=True) and away[2] < away[0] / 2
    assert training_bytes(offload_blocks=99) == away[2]
    assert training_bytes(offload_activations=True, batch_size=8) < training_bytes(batch_size=8)


def test_each_step_of_quantizing_shrinks_caching_training_and_validation() -> None:
    levels = ("no_change", "int8-quanto", "int4-quanto", "int2-quanto")
    found = [
        estimate_memory(MEDIUM, replace(USUAL, precision=replace(BF16, base_model_precision=level))) for level in levels
    ]
    for larger, smaller in itertools.pairwise(found):
        assert smaller.training_bytes < larger.training_bytes
        assert smaller.validation_bytes < larger.validation_bytes
    assert found[1].caching_bytes < found[0].caching_bytes


def test_text_encoders_that_learn_stay_loaded_and_are_not_needed_before() -> None:
    without, learning = (estimate_memory(MEDIUM, replace(USUAL, trains_text=trains)) for trains in (False, True))
    clip_l, clip_g, t5 = (encoder.parameters for encoder in MEDIUM.text_encoders)
    assert learning.training.weights - without.training.weights == 2 * (clip_l + clip_g)
    # Four square projections of each of 12 layers 768 wide, and of 32 layers 1280 wide.
    assert learning.training.trained - without.training.trained == 4 * 16 * 2 * 4 * (12 * 768 + 32 * 1280)
    assert learning.caching_bytes == without.caching_bytes > 2 * t5


def test_a_run_that_draws_nothing_needs_nothing_for_it() -> None:
    assert estimate_memory(MEDIUM, replace(USUAL, validation=None)).validation_bytes == 0


def test_the_parts_add_up() -> None:
    found = estimate_memory(MEDIUM, USUAL)
    assert found.training_bytes == found.training.total + found.overhead_bytes
    assert found.peak_bytes == max(found.caching_bytes, found.training_bytes, found.validation_bytes)


@pytest.mark.parametrize(
    ("model", "changed", "counted_gb"),
    [
        ("SD3 medium", {"batch_size": 8, "checkpointing_interval": 2}, 26.85),
        ("SD3.5 medium", {"batch_size": 8, "lora_rank": 64}, 11.95),
        ("SD3.5 large", {"batch_size": 8}, 28.29),
    ],
    ids=str,
)
def test_estimates_are_near_counted_peaks(model: str, changed: dict[str, Any], counted_gb: float) -> None:
    """Figures of `tests/pretend_cuda`, which counts many more, for machines that cannot build its device."""
    estimate = estimate_memory(KNOWN[model], replace(USUAL, **changed)).training.total
    assert estimate == pytest.approx(counted_gb * 1e9, rel=0.05)


def test_encoding_images_is_counted_at_the_second_resnet() -> None:
    alone = replace(MEDIUM, text_encoders=())  # type: ignore[arg-type]
    assert caching_memory(alone, USUAL) == pytest.approx(5.61e9, rel=0.01)


@pytest.mark.parametrize("level", ["int8-quanto", "int4-quanto", "int2-quanto"])
def test_quantizing_saves_what_quantized_layers_save(level: str) -> None:
    """Real ones of a block's shapes, scales and zero points included."""
    import torch

    from helpers.models.quantized_weight import quantized

    saved = 0
    one_block = replace(MEDIUM.transformer, layers=1)
    for layer in one_block.block(0):
        weight = quantized(torch.empty(layer.outputs, layer.inputs, dtype=torch.bfloat16, device="meta"), level=level)
        held: int = sum(getattr(weight, name).nbytes for name in weight.__tensor_flatten__()[0])
        saved += 2 * layer.outputs * layer.inputs - held
    quantized_block = replace(USUAL, precision=replace(BF16, base_model_precision=level))
    plain, less = (frozen_bytes(one_block, workload) for workload in (USUAL, quantized_block))
    assert plain - less == pytest.approx(saved, rel=0.005)


def test_gradients_that_wait_for_a_second_batch_are_there_while_it_is_computed() -> None:
    """From two batches to a step on, however many there are; the way there is the highest place without checkpoints."""
    full = {"model_type": "full", "gradient_checkpointing": False, "batch_size": 8}
    alone, two, many = (training_bytes(accumulation=count, **full) for count in (1, 2, 8))
    gradients = estimate_memory(MEDIUM, replace(USUAL, model_type="full")).training.gradients
    assert two == many == alone + gradients


@pytest.mark.parametrize(("guidance", "guided"), [(1.0, False), (1.5, True)])
def test_an_image_is_drawn_twice_only_where_it_is_guided(guidance: float, guided: bool) -> None:
    """As diffusers does: at 1 the prediction with the prompt is all that counts."""
    config = replace(CONFIG, validation=replace(CONFIG.validation, validation_guidance=guidance))
    assert from_config(config).guided == guided


def test_a_workload_follows_the_options_of_its_run() -> None:
    config = replace(
        CONFIG,
        run=replace(CONFIG.run, train_batch_size=3, gradient_accumulation_steps=2),
        cache=replace(CONFIG.cache, keep_vae_loaded=True),
        speed=replace(CONFIG.speed, offload_blocks=5),
    )
    workload = from_config(config)
    assert (workload.batch_size, workload.accumulation, workload.offload_blocks) == (3, 2, 5)
    assert workload.keeps_vae and not from_config(CONFIG).keeps_vae
    assert (from_config(CONFIG).vae_batch_size, from_config(CONFIG, device="cpu").vae_batch_size) == (4, 2)


def from_config(config: RunConfig, *, device: str = "cuda") -> Workload:
    return Workload.from_config(
        config, device=device, precision=BF16, threads=2, width=1024, height=1024, vae_batch_size=4
    )
