"""Where memory does not suffice, what is said takes less, in the order of effect, and only what is still to be had."""

from dataclasses import replace

import pytest
import torch

from helpers.config.options.model import PrecisionOptions
from helpers.errors import TrainingError
from helpers.models.memory import MemoryEstimate, Workload
from helpers.models.sd3.memory.architecture import KNOWN
from helpers.models.sd3.memory.estimate import estimate_memory
from helpers.training.memory import (
    ENCODING,
    TRAINING,
    VALIDATING,
    MemoryNeeds,
    cheaper_variants,
    explain_out_of_memory,
)

BF16 = PrecisionOptions(mixed_precision="bf16")


def estimate(workload: Workload) -> MemoryEstimate:
    return estimate_memory(KNOWN["SD3.5 large"], workload)


def settings_named(doing: str, **more: object) -> list[str]:
    workload = replace(Workload(device="cuda", precision=BF16), **more)  # type: ignore[arg-type]
    return [line.partition("=")[0] for line in MemoryNeeds(workload=workload, estimate_for=estimate).suggestions(doing)]


def test_training_names_what_takes_less_the_most_first() -> None:
    wasteful = settings_named(TRAINING, gradient_checkpointing=False, batch_size=4, keeps_vae=True)
    assert wasteful[:2] == ["USE_GRADIENT_CHECKPOINTING", "TRAIN_BATCH_SIZE"]
    assert wasteful[2].startswith("a RESOLUTION")
    assert "BASE_MODEL_PRECISION" in settings_named(TRAINING)
    assert "TRAIN_TEXT_ENCODER" in settings_named(TRAINING, trains_text=True)
    assert "OFFLOAD_BLOCKS" in settings_named(TRAINING)
    assert "OFFLOAD_BLOCKS" not in settings_named(TRAINING, offload_blocks=38)
    assert "GRADIENT_CHECKPOINTING_INTERVAL" in settings_named(TRAINING, checkpointing_interval=2)
    thrifty = settings_named(TRAINING, precision=replace(BF16, base_model_precision="int4-quanto"))
    assert not {"USE_GRADIENT_CHECKPOINTING", "TRAIN_BATCH_SIZE", "BASE_MODEL_PRECISION"} & set(thrifty)


def test_a_whole_model_can_be_trained_with_less() -> None:
    whole = settings_named(TRAINING, model_type="full", precision=replace(BF16, base_model_default_dtype="fp32"))
    assert whole[:3] == ["MODEL_TYPE", "OPTIMIZER", "FUSED_BACKWARD"]
    in_bf16 = replace(BF16, base_model_default_dtype="bf16")
    least = settings_named(TRAINING, model_type="full", precision=in_bf16, optimizer="adamw_bf16", fused_backward=True)
    assert [line.split()[0] for line in least] == ["MODEL_TYPE", "a"]


def test_each_part_of_a_run_names_its_own() -> None:
    assert "TEXT_ENCODER_3_PRECISION" in settings_named(ENCODING)
    assert "TEXT_ENCODER_3_PRECISION" not in settings_named(TRAINING)
    assert "VALIDATION_RESOLUTION" in settings_named(VALIDATING)
    assert "TRAIN_BATCH_SIZE" not in settings_named(VALIDATING, batch_size=4)


def test_memory_that_is_not_there_is_explained_and_other_errors_are_themselves() -> None:
    needs = MemoryNeeds(workload=Workload(device="cuda", precision=BF16), estimate_for=estimate)
    with (
        pytest.raises(
            TrainingError, match=r"while training: .*allocate memory[\s\S]*\n  BASE_MODEL_PRECISION=int8-quanto: about"
        ),
        explain_out_of_memory(TRAINING, lambda: needs),
    ):
        torch.empty(2**50)
    with pytest.raises(TrainingError, match="while encoding"), explain_out_of_memory(ENCODING, lambda: needs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    for said in ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`", "MPS backend out of memory"):
        with pytest.raises(TrainingError, match="while generating"), explain_out_of_memory(VALIDATING, lambda: needs):
            raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory(TRAINING, lambda: needs):
        raise RuntimeError("shapes do not agree")


def test_half_as_many_points_and_all_blocks_are_what_is_advised() -> None:
    workload = Workload(device="cuda", precision=BF16)
    advised = dict(cheaper_variants(workload))
    smaller = next(less for words, less in advised.items() if "half as many pixels" in words)
    assert smaller.width * smaller.height == pytest.approx(workload.width * workload.height / 2, rel=0.01)
    away = next(less for words, less in advised.items() if words.startswith("OFFLOAD_BLOCKS="))
    assert away.offload_blocks == max(each.transformer.layers for each in KNOWN.values())
