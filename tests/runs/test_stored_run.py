"""A run that an earlier version left behind: its checkpoint resumes, and its cached entries are used.

That version identified encoders by their files, this one by their tensors.

`stored_run/` is the OUTPUT_DIR that commit 04fc7c1 wrote: 7 images, a LoRA with EMA, 4 steps, checkpoint-2 kept.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from tests.runs.harness import SmallRun, encoded, forget_shift

STORED = Path(__file__).with_name("stored_run")
IMAGES_CHANGED_AT = 1_700_000_000
"""Seconds since 1970: part of an image's identity, which git does not keep."""

SETTINGS = {
    "max_train_steps": 4,
    "checkpointing_steps": 2,
    "tokenizer_max_length": 77,
    "use_ema": True,
}


@pytest.mark.parametrize(
    ("setting", "unrecorded", "notice"),
    [
        pytest.param(3.0, False, "", id="set"),
        pytest.param(None, False, "FLOW_SHIFT is not set: it stays 3.0", id="kept"),
        pytest.param(None, True, "FLOW_SHIFT is not set: it stays model", id="the scheduler's own"),
    ],
)
def test_an_earlier_version_s_run_resumes_with_its_caches(
    setting: float | None,
    unrecorded: bool,
    notice: str,
    tiny_pipeline: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whether FLOW_SHIFT is set or not: it was recorded, or the run had its scheduler's, which is 3 as well."""
    shutil.copytree(STORED, tmp_path / "output")
    datasets = json.loads((STORED / "multidatabackend.json").read_text())
    for image in (tmp_path / "output" / datasets[0]["instance_data_dir"]).iterdir():
        os.utime(image, (IMAGES_CHANGED_AT, IMAGES_CHANGED_AT))
    if unrecorded:
        forget_shift(tmp_path / "output" / "checkpoint-2")
    run = SmallRun(tmp_path, tiny_pipeline, settings=SETTINGS | {"flow_shift": setting}, datasets=datasets)
    expected = run.weights()
    (run.output / "pytorch_lora_weights.safetensors").unlink()
    assert run.start() == 0
    output = capsys.readouterr().out
    assert not encoded(output), "the earlier version's entries are found"
    assert f"resumes from {run.output / 'checkpoint-2'}" in output
    assert notice in output and ("FLOW_SHIFT" in output) == bool(notice)
    assert run.saved_steps() == [2, 4]
    found = run.weights()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-3, atol=1e-5, msg=lambda why, name=name: f"{name}: {why}"
        )
