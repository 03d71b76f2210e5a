"""Several processes that learn as one, share the work before it, and end together whatever happens to one of them."""

import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import train
from helpers.dataloader.types import TrainBatch
from helpers.errors import CacheError
from tests.runs.harness import SmallRun, copied, draw_set, same
from tests.runs.ranks import Ended, run_ranks
from tests.runs.test_signals import PATIENCE_SECONDS, through_train_sh, wait_until

STEPS = 4
PROMPTLY_SECONDS = 20


@dataclass(frozen=True)
class Finished:
    run: SmallRun
    ended: Ended


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Finished:
    """A run of two processes from nothing to its end."""
    run = SmallRun(
        tmp_path_factory.mktemp("two"),
        tiny_pipeline,
        settings={
            "train_batch_size": 1,
            "max_train_steps": STEPS,
            "caption_dropout_probability": 0.3,
            "use_ema": True,
            "ema_decay": 0.9,
            "text_encoder_lr": 1e-4,  # without effect here, which is remarked upon
        },
    )
    draw_set(run.output / "datasets" / "colors")
    return Finished(run, run_ranks(run))


def at_step(step: int, two: Finished, folder: Path) -> SmallRun:
    """The run as it was when it was interrupted after its checkpoint at `step`."""
    run = copied(two.run, folder)
    for later in run.output.glob("checkpoint-*"):
        if int(later.name.removeprefix("checkpoint-")) > step:
            shutil.rmtree(later)
    (run.output / "pytorch_lora_weights.safetensors").unlink()
    return run


def test_two_learn_what_one_with_twice_the_batch_learns(two: Finished, tmp_path: Path) -> None:
    assert two.ended.statuses == (0, 0), two.ended.said
    one = SmallRun(tmp_path, two.run.pipeline, settings=two.run.settings | {"train_batch_size": 2})
    shutil.copytree(two.run.output / "datasets", one.output / "datasets")
    shutil.copytree(two.run.output / "cache", one.output / "cache")
    assert one.start() == 0
    for name, tensor in one.remembered(STEPS).items():
        torch.testing.assert_close(two.run.remembered(STEPS)[name], tensor, rtol=2e-3, atol=2e-5)


def test_only_the_first_process_speaks(two: Finished) -> None:
    first, second = two.ended.said
    assert "finished after step 4" in first
    assert first.count("TEXT_ENCODER_LR=0.0001 has no effect") == 1
    assert second == ""
    assert len(list(two.run.output.glob("logs/*_process_1.log"))) == 1


def test_each_process_encodes_its_share_and_none_is_encoded_twice(two: Finished) -> None:
    for cache, share in {"vae": {"0": 4, "1": 3}, "text": {"0": 12, "1": 12}}.items():
        keys: Counter[str] = Counter()
        by_rank: Counter[str] = Counter()
        for shard in two.run.output.glob(f"cache/{cache}/shard-*"):
            with safe_open(shard, framework="pt") as file:
                found = {name[:32] for name in file.offset_keys()}
            keys.update(found)
            by_rank[shard.name.split("-")[1]] += len(found)
        assert set(keys.values()) == {1}
        assert by_rank == share


def test_as_many_processes_go_on_exactly(two: Finished, tmp_path: Path) -> None:
    resumed = at_step(2, two, tmp_path)
    again = run_ranks(resumed)
    assert again.statuses == (0, 0), again.said
    assert "resumes from" in again.said[0]
    assert same(resumed.remembered(STEPS), two.run.remembered(STEPS))
    assert same(resumed.weights(), two.run.weights())


def test_one_process_goes_on_with_what_two_began(
    two: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And takes the epochs that are left, each of twice the steps."""
    resumed = at_step(2, two, tmp_path)
    assert resumed.start(max_train_steps=0, num_train_epochs=3) == 0
    said = capsys.readouterr().out
    assert "the number of processes: 2 before, 1 now" in said
    assert "so that no image is skipped" in said
    assert resumed.saved_steps()[-1] == 9


def fail_at_second_batch(rank: int) -> None:
    """Have the second process fail to read its batch."""
    from helpers.dataloader.loader import BatchBuilder

    make = BatchBuilder.batch
    made: list[TrainBatch] = []

    def batch(source: BatchBuilder, position: object) -> TrainBatch:
        if made:
            raise CacheError("the latents of colors: red square.png cannot be read")
        made.append(make(source, position))  # type: ignore[arg-type]
        return made[-1]

    if rank == 1:
        BatchBuilder.batch = batch  # type: ignore[method-assign,assignment]


def say_who_still_listens(rank: int) -> None:
    """Wrapped around the whole program: whether it ends with threads that listen to the other process."""
    whole = train.main

    def told(arguments: Sequence[str]) -> int:
        status = whole(arguments)
        sys.stdout.write("still listening\n" if torch.distributed.is_initialized() else "has left\n")
        return status

    train.main = told


@pytest.mark.parametrize("ending", ["dry_run", "cache_only"])
def test_whatever_was_asked_for_each_process_leaves_the_others_before_it_ends(
    two: Finished, tmp_path: Path, ending: str
) -> None:
    """Else one may abort as it ends, by chance, and the launcher takes the run for failed."""
    run = copied(two.run, tmp_path)
    asked = run_ranks(run, before=say_who_still_listens, **{ending: True})
    assert asked.statuses == (0, 0), asked.said
    assert all("has left" in said for said in asked.said)


def test_one_that_fails_ends_the_run_with_its_error(two: Finished, tmp_path: Path) -> None:
    run = at_step(2, two, tmp_path)
    began = time.monotonic()
    failed = run_ranks(run, before=fail_at_second_batch)
    assert time.monotonic() - began < PROMPTLY_SECONDS
    assert failed.statuses == (1, 1)
    assert "process 1: the latents of colors: red square.png cannot be read" in failed.said[1]
    assert "Another process of this run has ended" in failed.said[0]
    assert "Traceback" not in "".join(failed.said)
    assert run.saved_steps() == [2]


def test_a_signal_stops_all_through_train_sh_and_leaves_one_checkpoint(two: Finished, tmp_path: Path) -> None:
    run = at_step(2, two, tmp_path / "run")
    process = through_train_sh(run, tmp_path / "repository", "--checkpointing_steps=3", processes=2)
    wait_until(lambda: 3 in run.saved_steps(), process)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert "Traceback" not in output
    last = run.saved_steps()[-1]
    assert output.count(f"stopped after step {last}") == 1
