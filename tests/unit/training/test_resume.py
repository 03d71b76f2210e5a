"""Which changes are refused, reported or ignored when a run resumes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from helpers import __version__
from helpers.config.options.model import LoraOptions, PrecisionOptions
from helpers.config.options.training import OptimizerOptions, RunOptions
from helpers.config.options.validation import ValidationOptions
from helpers.config.train_config import RunConfig
from helpers.data.types import Catalog
from helpers.dataloader.types import Position
from helpers.errors import CheckpointError
from helpers.models.quantized_weight import ARITHMETIC
from helpers.reporting.events import Notice
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.checkpoint import Checkpoint
from helpers.training.checkpoint.compatibility import ResumeComparison, compare
from helpers.training.checkpoint.manifest import CheckpointManifest, RunInputs, configuration_of, dataset_fingerprints
from helpers.training.checkpoint.resume import starting_state
from helpers.training.plan import TrainState
from tests.unit.training.small_run import Events, small_order

SAVED = RunConfig(lora=LoraOptions(lora_rank=8))
FOUNDATIONS = RunInputs(base_model="sd3", base_identity="aa", world_size=1, datasets={"a": "5 images, 01"})
SAVED_AT = Position(3, 1)


def start(
    config: RunConfig = SAVED,
    foundations: RunInputs = FOUNDATIONS,
    *,
    before: RunInputs = FOUNDATIONS,
    saved: RunConfig = SAVED,
    ranks: int = 1,
) -> tuple[TrainState, list[str]]:
    events = Events()
    state = starting_state(
        Checkpoint(folder=Path("out/checkpoint-7"), manifest=manifest_of(before, saved=saved)),
        configuration=configuration_of(config),
        foundations=foundations,
        order=small_order(world_size=ranks),
        reporter=Reporter([events]),
    )
    return state, [event.text for event in events if isinstance(event, Notice)]


def compared(
    config: RunConfig = SAVED, foundations: RunInputs = FOUNDATIONS, *, before: RunInputs = FOUNDATIONS
) -> ResumeComparison:
    manifest = manifest_of(before, saved=SAVED)
    return compare(manifest, configuration=configuration_of(config), foundations=foundations, folder="checkpoint-7")


def manifest_of(foundations: RunInputs, *, saved: RunConfig) -> CheckpointManifest:
    return CheckpointManifest(
        serial=1,
        step=7,
        position=SAVED_AT,
        foundations=foundations,
        configuration=configuration_of(saved),
        files={},
    )


def changed(**groups: object) -> RunConfig:
    return RunConfig(**{"lora": SAVED.lora, **groups})  # type: ignore[arg-type]


def test_equal_settings_continue_in_silence() -> None:
    assert start() == (TrainState(step=7, position=SAVED_AT), ["resumes from out/checkpoint-7"])


@pytest.mark.parametrize(
    ("config", "name", "saved", "current"),
    [
        (changed(lora=LoraOptions(lora_rank=4)), "lora_rank", "8", "4"),
        (changed(lora=LoraOptions(lora_rank=8, lora_alpha=2.0)), "lora_alpha", "8.0", "2.0"),
        (changed(run=RunOptions(seed=1)), "seed", "42", "1"),
        (changed(run=RunOptions(train_batch_size=2)), "train_batch_size", "1", "2"),
        (changed(run=RunOptions(gradient_accumulation_steps=2)), "gradient_accumulation_steps", "1", "2"),
        (changed(optimizer=OptimizerOptions(optimizer="prodigy")), "optimizer", "adamw", "prodigy"),
    ],
)
def test_what_must_agree_is_refused_by_name_with_both_values(
    config: RunConfig, name: str, saved: str, current: str
) -> None:
    with pytest.raises(CheckpointError) as error:
        start(config)
    assert f"{name}: {saved} in the checkpoint, {current} now" in str(error.value)
    assert "resume_from_checkpoint=none" in str(error.value)


def test_another_base_model_is_refused_and_the_same_one_elsewhere_is_not() -> None:
    same = RunInputs(base_model="/moved/sd3", base_identity="aa", world_size=1, datasets=FOUNDATIONS.datasets)
    assert start(foundations=same)[0].step == 7
    other = RunInputs(base_model="sd3.5", base_identity="bb", world_size=1, datasets=FOUNDATIONS.datasets)
    with pytest.raises(CheckpointError, match=r"the base model: sd3 \(aa\) in the checkpoint, sd3\.5 \(bb\) now"):
        start(foundations=other)


def test_alpha_that_was_the_rank_may_be_set() -> None:
    assert start(changed(lora=LoraOptions(lora_rank=8, lora_alpha=8.0)))[0].step == 7


def test_a_learning_rate_is_announced_and_a_folder_is_not() -> None:
    config = changed(
        optimizer=OptimizerOptions(learning_rate=1.0),
        run=RunOptions(output_dir="elsewhere"),
        validation=ValidationOptions(validation_prompt="a cat"),
    )
    assert start(config) == start()
    (change,) = compared(config).settings
    effect = "the learning rate follows the new value from the next step on"
    assert str(change) == f"learning_rate: 0.0001 before, 1.0 now; {effect}"


@pytest.mark.parametrize(("level", "is_announced"), [("no_change", False), ("int8-quanto", True)])
def test_a_checkpoint_of_quanto_s_kernels_continues_and_that_is_announced(level: str, is_announced: bool) -> None:
    config = changed(precision=PrecisionOptions(base_model_precision=level))
    now = dataclasses.replace(FOUNDATIONS, quantized_layers=ARITHMETIC)
    state, notices = start(config, now, saved=config)
    assert state == TrainState(step=7, position=SAVED_AT)
    change = f"the arithmetic of quantized layers: quanto's kernels before, {ARITHMETIC} now"
    assert notices[1:] == ([f"changed since checkpoint-7: {change}"] if is_announced else [])
    assert start(config, now, before=now, saved=config)[1][1:] == []


def test_another_number_of_processes_is_announced_and_leaves_no_image_out() -> None:
    state, notices = start(foundations=dataclasses.replace(FOUNDATIONS, world_size=2), ranks=2)
    order = small_order(world_size=2)
    assert state.position == order.position_after_images(order.for_world_size(1).images_shown(SAVED_AT)) != SAVED_AT
    assert "changed since checkpoint-7: the number of processes: 1 before, 2 now" in notices
    assert "no image is skipped; some repeat" in notices[-1]


@pytest.mark.parametrize(
    "foundations",
    [
        RunInputs(base_model="sd3", base_identity="aa", world_size=1, datasets={"a": "6 images, 02"}),
        RunInputs(base_model="sd3", base_identity="aa", world_size=1, datasets={**FOUNDATIONS.datasets, "b": "1"}),
    ],
    ids=["images", "dataset"],
)
def test_another_order_starts_the_epoch_again_and_is_reported(foundations: RunInputs) -> None:
    state, notices = start(foundations=foundations)
    assert state == TrainState(step=7, position=Position(3, 0))
    assert "the order of images changes: training resumes at the beginning of epoch 4" in notices[-1]


@pytest.mark.parametrize(
    ("saved", "current", "announced"),
    [
        ({"a": {"flip": "false"}}, {"a": {"flip": "true"}}, ["a, flip: false before, true now"]),
        (
            {"a": {"caption_strategy": "textfile", "instance_prompt": ""}, "texts": {"caption_filter_list": "[]"}},
            {"a": {"caption_strategy": "filename", "instance_prompt": "x"}, "texts": {"caption_filter_list": '["a"]'}},
            [
                "a, caption_strategy: textfile before, filename now",
                "a, instance_prompt: none before, x now",
                'texts, caption_filter_list: [] before, ["a"] now',
            ],
        ),
        ({}, {"a": {"flip": "true"}}, []),
        ({"a": {"gone": "1"}}, {"a": {"new": "1"}}, []),
    ],
    ids=["one", "several", "a checkpoint without", "keys of one version only"],
)
def test_keys_of_data_sets_are_announced_and_the_place_in_the_order_stays(
    saved: dict[str, dict[str, str]], current: dict[str, dict[str, str]], announced: list[str]
) -> None:
    before = dataclasses.replace(FOUNDATIONS, dataset_settings=saved)
    now = dataclasses.replace(FOUNDATIONS, dataset_settings=current)
    assert start(foundations=now, before=before) == start()
    changes = compared(foundations=now, before=before).settings
    assert [str(change).partition(";")[0] for change in changes] == [f"dataset {line}" for line in announced]


def test_a_data_sets_fingerprint_changes_with_its_images_and_their_geometry() -> None:
    def fingerprint(paths: tuple[str, ...], width: int) -> str:
        catalog = Catalog(
            dataset_id="a",
            source=None,  # type: ignore[arg-type]
            repeats=0,
            paths=paths,
            tags=paths,
            size_bytes=np.zeros(len(paths), dtype=np.int64),
            sizes=np.zeros((len(paths), 2), dtype=np.int32),
            geometries=np.full((len(paths), 6), width, dtype=np.int32),
            captions_of=lambda index: ("",),
        )
        return dataset_fingerprints([catalog])["a"]

    first = fingerprint(("1.png", "2.png"), 64)
    assert first.startswith("2 images, ")
    assert len({first, fingerprint(("1.png", "3.png"), 64), fingerprint(("1.png", "2.png"), 128)}) == 3
    assert fingerprint(("1.png", "2.png"), 64) == first


def test_the_version_is_the_projects() -> None:
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert f'version = "{__version__}"' in project
