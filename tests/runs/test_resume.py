"""However often a run is killed or stopped, the same command ends in the weights of a run that never was."""

from pathlib import Path
from typing import Any

import pytest

from helpers.training.checkpoint.manifest import read_manifest
from tests.runs.harness import SmallRun, copied, draw, draw_set, encoded, forget_shift, same, stop_after

STEPS = 6
# Everything that draws random numbers, or computes anything twice, is on.
SETTINGS = {
    "max_train_steps": STEPS,
    "checkpointing_steps": 2,
    "lora_dropout": 0.2,
    "caption_dropout_probability": 0.3,
    "gradient_checkpointing": True,
    "torch_num_threads": 1,
}

# Where the process is killed, at which of its calls in that process, and the steps that are saved by then. A forward
# pass with an even number is the second of its step.
IN_LATENT_SHARD = ("helpers.cache.writer:shard_bytes", 14, [])
IN_TEXT_SHARD = ("helpers.cache.writer:shard_bytes", 6, [])
AFTER_AN_UNSAVED_STEP = ("helpers.training.loop:take_step", 4, [2])
IN_A_FIRST_ACCUMULATION = ("helpers.training.loop:forward_backward", 6, [2])
IN_AN_ACCUMULATION = ("helpers.training.loop:forward_backward", 4, [2])
AFTER_A_CHECKPOINTS_WEIGHTS = ("helpers.training.checkpoint.checkpoint:optimizer_state", 1, [2])
BEFORE_A_CHECKPOINTS_RENAME = ("helpers.files:_sync_folder", 1, [2])


def new_run(folder: Path, pipeline: Path, **settings: Any) -> SmallRun:
    """Nine images in three shapes, of which a checkpoint every second step falls amid an epoch."""
    run = SmallRun(folder, pipeline, settings=SETTINGS | settings)
    images = run.output / "datasets" / "colors"
    draw_set(images)
    for seed, name in enumerate(("orange", "brown")):
        draw(images / f"{name} tower.png", color=(250, 150, 40 * seed), size=(64, 96), seed=seed)
    return run


@pytest.mark.parametrize(
    ("settings", "kills"),
    [
        pytest.param(
            {},
            [IN_LATENT_SHARD, AFTER_AN_UNSAVED_STEP, IN_AN_ACCUMULATION, AFTER_A_CHECKPOINTS_WEIGHTS],
            id="fp32",
        ),
        pytest.param(
            {"mixed_precision": "bf16"},
            [IN_TEXT_SHARD, IN_A_FIRST_ACCUMULATION, BEFORE_A_CHECKPOINTS_RENAME],
            id="bf16",
        ),
        pytest.param(
            {"mixed_precision": "bf16", "base_model_precision": "int8-quanto"},
            [IN_A_FIRST_ACCUMULATION, AFTER_A_CHECKPOINTS_WEIGHTS],
            id="int8-quanto",
        ),
    ],
)
def test_a_run_killed_again_and_again_ends_in_the_same_weights(
    settings: dict[str, Any],
    kills: list[tuple[str, int, list[int]]],
    tmp_path: Path,
    tiny_pipeline: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    straight = new_run(tmp_path / "straight", tiny_pipeline, **settings)
    broken = new_run(tmp_path / "broken", tiny_pipeline, **settings)
    for place, at_call, saved in kills:
        broken.killed(place, at_call=at_call)
        assert broken.saved_steps() == saved, place
    assert list(broken.output.glob(".checkpoint-4.partial-*")), "the last kill left a checkpoint unfinished"
    assert read_manifest(broken.output / "checkpoint-2").position.batch > 0, "amid an epoch"

    assert broken.start() == 0
    said = capsys.readouterr().out
    assert "deleted an unfinished checkpoint" in said
    assert "resumes from" in said
    assert straight.start() == 0
    assert same(broken.weights(), straight.weights())
    assert same(broken.remembered(STEPS), straight.remembered(STEPS))


@pytest.fixture(scope="module")
def cached(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    """Images and full caches, to be copied."""
    run = new_run(tmp_path_factory.mktemp("cached"), tiny_pipeline)
    assert run.start(cache_only=True) == 0
    return run


@pytest.mark.parametrize(
    ("optimizer", "learning_rate"), [("adamw", 0.01), ("adamw_bf16", 0.01), ("adafactor", 0.01), ("prodigy", 1.0)]
)
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not(
    optimizer: str, learning_rate: float, cached: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a learning rate that rises and falls, so that its place in the run matters, too."""
    settings = {
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 2,
        "max_train_steps": 5,
        "checkpointing_steps": 4,
    }
    straight, stopped = (copied(cached, tmp_path / name, **settings) for name in ("straight", "stopped"))
    assert straight.start() == 0
    with monkeypatch.context() as patched:
        stop_after(3, patched)
        assert stopped.start() == 143
    assert stopped.saved_steps() == [3]
    assert not (stopped.output / "pytorch_lora_weights.safetensors").exists()
    assert stopped.start() == 0
    assert same(stopped.weights(), straight.weights())
    assert same(stopped.remembered(5), straight.remembered(5))


def test_a_checkpoint_of_an_older_run_resumes_with_its_scheduler_s_shift(
    cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bit for bit, and at each later resume; the default of new runs and a value that is set are others."""
    straight, older, fresh = (copied(cached, tmp_path / name) for name in ("straight", "older", "fresh"))
    assert straight.start(flow_shift="model") == 0
    assert older.start(flow_shift="model", max_train_steps=2) == 0
    forget_shift(older.output / "checkpoint-2")
    capsys.readouterr()
    for steps in (4, STEPS):
        assert older.start(max_train_steps=steps) == 0
        output = capsys.readouterr().out
        assert f"FLOW_SHIFT is not set: it stays model, as in {older.output / f'checkpoint-{steps - 2}'}" in output
        assert "flow_shift: " not in output
        assert "noise levels: logit_normal, shifted by 3 (FLOW_SHIFT=model)" in output
    assert same(older.weights(), straight.weights())
    assert same(older.remembered(STEPS), straight.remembered(STEPS))

    assert older.start(flow_shift=1, resume_from_checkpoint="checkpoint-4") == 0
    assert "changed since checkpoint-4: flow_shift: model before, 1.0 now" in capsys.readouterr().out
    assert not same(older.weights(), straight.weights())
    assert fresh.start() == 0
    assert "FLOW_SHIFT" not in capsys.readouterr().out
    assert older.start(resume_from_checkpoint="none") == 0
    assert same(older.weights(), fresh.weights())


def test_a_finished_run_says_so_and_changes_nothing(
    cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(cached, tmp_path)
    assert run.start() == 0
    weights = run.weights()
    capsys.readouterr()
    assert run.start() == 0
    said = capsys.readouterr().out
    assert f"all {STEPS} steps of this run are done" in said
    assert "training: step" not in said
    assert same(run.weights(), weights)
    assert run.saved_steps() == [2, 4, 6]

    longer = copied(cached, tmp_path / "longer", max_train_steps=STEPS + 2)
    assert longer.start() == 0
    assert run.start(max_train_steps=STEPS + 2) == 0
    assert same(run.weights(), longer.weights())


def test_any_checkpoint_can_be_named_and_none_starts_from_the_beginning(
    cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(cached, tmp_path)
    assert run.start() == 0
    weights = run.weights()
    for resume, first in (("checkpoint-2", "resumes from"), ("none", "starts from the beginning")):
        (run.output / "pytorch_lora_weights.safetensors").unlink()
        capsys.readouterr()
        assert run.start(resume_from_checkpoint=resume) == 0
        assert first in capsys.readouterr().out
        assert same(run.weights(), weights)
    assert run.start(resume_from_checkpoint="checkpoint-3") == 1
    assert "checkpoint-2, checkpoint-4, checkpoint-6" in capsys.readouterr().err


def test_changes_are_reported_and_what_cannot_be_resumed_is_refused_before_anything_is_encoded(
    cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(cached, tmp_path)
    assert run.start() == 0
    capsys.readouterr()
    assert run.start(lora_rank=8, lr_end=0.001, resolution=80) == 1
    said, refusal = capsys.readouterr()
    assert "LR_END: 0.0 before, 0.001 now; the learning rate follows the new value" in said
    assert "dataset colors, resolution: 64.0 before, 80.0 now; affected images are encoded again" in said
    assert "LORA_RANK: 4 before, 8 now; checkpoints saved with the other value cannot be resumed" in said
    assert "lora_rank: 4 in the checkpoint, 8 now" in refusal
    assert encoded(said) == {}
    assert run.start() == 0
    assert "since the last run" not in capsys.readouterr().out


def test_changed_keys_of_a_dataset_are_reported_and_the_order_is_kept(
    cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copied(cached, tmp_path)
    assert run.start(max_train_steps=2) == 0
    assert "changed since checkpoint" not in capsys.readouterr().out
    (colors,) = run.datasets
    run.datasets = [{**colors, "flip": True, "prepend_instance_prompt": True, "instance_prompt": "an image of"}]
    assert run.start(max_train_steps=3) == 0
    said = capsys.readouterr().out
    assert "changed since checkpoint-2: dataset colors, flip: false before, true now" in said
    assert "changed since checkpoint-2: dataset colors, instance_prompt: none before, an image of now" in said
    assert "the order of images changes" not in said
    run.datasets = [{**run.datasets[0], "repeats": 1}]
    assert run.start(max_train_steps=4) == 0
    said = capsys.readouterr().out
    assert "changed since checkpoint-3: dataset colors, repeats: 0 before, 1 now" in said
    assert "flip: false" not in said and "the order of images changes" in said


def test_each_changed_setting_is_reported_once_and_before_anything_is_encoded(
    cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the checkpoint stores it (the first three) or not, and in a dry run as well."""
    run = copied(cached, tmp_path)
    assert run.start(max_train_steps=2) == 0
    (colors,) = run.datasets
    run.datasets = [{**colors, "resolution": 80}, {**colors, "id": "more", "cache_dir_vae": str(tmp_path / "more")}]
    since = "changed since checkpoint-2: "
    expected = {
        "learning_rate: ": f"{since}learning_rate: ",
        "dataset colors, resolution: ": f"{since}dataset colors, resolution: 64.0 before, 80.0 now; ",
        "dataset more: ": f"{since}dataset more: not there before, there now; ",
        "VALIDATION_GUIDANCE: ": "VALIDATION_GUIDANCE: ",
    }
    for is_dry_run in (True, False):
        capsys.readouterr()
        assert run.start(max_train_steps=3, learning_rate=0.02, validation_guidance=2.0, dry_run=is_dry_run) == 0
        output = capsys.readouterr().out
        lines = [line for line in output.splitlines() if " before, " in line]
        for name, text in expected.items():
            (line,) = [line for line in lines if name.lower() in line.lower()]
            assert text in line
        if not is_dry_run:
            assert output.index(expected["dataset more: "]) < output.index("encode")
            assert "the order of images changes" in output


def test_the_latest_checkpoints_are_kept(cached: SmallRun, tmp_path: Path) -> None:
    run = copied(cached, tmp_path, checkpointing_steps=1, checkpoints_total_limit=2)
    assert run.start() == 0
    assert run.saved_steps() == [5, 6]


def test_nothing_to_train_is_an_error(cached: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied(cached, tmp_path, lora_target="to_qq")
    assert run.start() == 1
    assert "lora_target names `to_qq`, but the model has no such layer: did you mean to_q" in capsys.readouterr().err
    assert run.saved_steps() == []
