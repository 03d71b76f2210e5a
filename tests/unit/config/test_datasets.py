"""The dataset file: the quickstart's as it stands, every key's slips, and everything wrong at once."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helpers.config.datasets.entries import LATER_IMAGE_KEYS
from helpers.config.datasets.file import DatasetFile, TextEmbedsStore, load_datasets
from helpers.config.datasets.types import LocalDataset
from helpers.config.options.data import CacheOptions, DataOptions
from helpers.config.options.training import RunOptions
from helpers.config.train_config import RunConfig
from helpers.errors import ConfigError, Problem

REPOSITORY = Path(__file__).resolve().parents[3]

# As the quickstart prints it.
QUICKSTART = """
[
  {
    "id": "pseudo-camera-10k-sd3",
    "type": "local",
    "crop": true,
    "crop_aspect": "square",
    "crop_style": "center",
    "resolution": 1.0,
    "minimum_image_size": 0.5,
    "maximum_image_size": 1.0,
    "target_downsample_size": 1.0,
    "resolution_type": "area",
    "cache_dir_vae": "cache/vae/sd3/pseudo-camera-10k",
    "instance_data_dir": "datasets/pseudo-camera-10k",
    "disabled": false,
    "skip_file_discovery": "",
    "caption_strategy": "filename",
    "metadata_backend": "json"
  },
  {
    "id": "text-embeds",
    "type": "local",
    "dataset_type": "text_embeds",
    "default": true,
    "cache_dir": "cache/text/sd3/pseudo-camera-10k",
    "disabled": false,
    "write_batch_size": 128
  }
]
"""

IMAGE_KEYS = sorted(LocalDataset.model_fields)
TEXT_KEYS = sorted(TextEmbedsStore.model_fields)


def run_config(output_dir: Path, **data: Any) -> RunConfig:
    return RunConfig(run=RunOptions(output_dir=str(output_dir)), data=DataOptions(**data))


def load(output_dir: Path, entries: Any, **data: Any) -> DatasetFile:
    text = entries if isinstance(entries, str) else json.dumps(entries)
    (output_dir / "multidatabackend.json").write_text(text)
    return load_datasets(run_config(output_dir, **data))


def problems(output_dir: Path, entries: Any, **data: Any) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        load(output_dir, entries, **data)
    return caught.value.problems


def entry(output_dir: Path, **more: Any) -> dict[str, Any]:
    """An entry that is right but for `more`."""
    (output_dir / "images").mkdir(exist_ok=True)
    return {"id": "mine", "type": "local", "instance_data_dir": "images"} | more


def test_the_quickstarts_file(tmp_path: Path) -> None:
    (tmp_path / "datasets" / "pseudo-camera-10k").mkdir(parents=True)
    found = load(tmp_path, QUICKSTART)
    (images,) = found.images
    assert images.instance_data_dir == tmp_path / "datasets" / "pseudo-camera-10k"
    assert images.cache_dir_vae == tmp_path / "cache" / "vae" / "sd3" / "pseudo-camera-10k"
    assert (images.crop, images.crop_aspect, images.crop_style) == (True, "square", "center")
    assert (images.minimum_image_size, images.maximum_image_size, images.target_downsample_size) == (0.5, 1.0, 1.0)
    assert (images.metadata_backend, images.caption_strategy, images.repeats) == ("discovery", "filename", 0)
    assert found.text_embeds.cache_dir == tmp_path / "cache" / "text" / "sd3" / "pseudo-camera-10k"
    assert (found.text_embeds.id, found.text_embeds.write_batch_size) == ("text-embeds", 128)


def test_the_shipped_example(tmp_path: Path) -> None:
    (tmp_path / "datasets" / "my-images").mkdir(parents=True)
    example = REPOSITORY / "config" / "multidatabackend.json.example"
    assert load(tmp_path, example.read_text()).images[0].id == "my-images"


def test_what_an_entry_leaves_out_comes_from_the_options(tmp_path: Path) -> None:
    config = run_config(
        tmp_path,
        resolution=512.0,
        resolution_type="pixel",
        minimum_image_size=256.0,
        caption_strategy="instance_prompt",
        instance_prompt="sks",
        aspect_bucket_alignment=32,
    )
    config = replace(config, cache=CacheOptions(vae_batch_size=9, write_batch_size=10))
    path = tmp_path / "multidatabackend.json"
    path.write_text(json.dumps([entry(tmp_path), entry(tmp_path, id="own", resolution=640, vae_batch_size=1)]))
    found = load_datasets(config)
    unsaid, own = found.images
    assert (unsaid.resolution, unsaid.resolution_type, unsaid.minimum_image_size) == (512.0, "pixel", 256.0)
    assert (unsaid.caption_strategy, unsaid.instance_prompt) == ("instanceprompt", "sks")
    assert (unsaid.aspect_bucket_alignment, unsaid.vae_batch_size, unsaid.write_batch_size) == (32, 9, 10)
    assert (own.resolution, own.vae_batch_size) == (640.0, 1)
    assert unsaid.cache_dir_vae == tmp_path / "cache" / "vae" / "mine"
    assert found.text_embeds.cache_dir == tmp_path / "cache" / "text"
    assert found.text_embeds.write_batch_size == 10


def test_spellings_that_mean_the_same(tmp_path: Path) -> None:
    said = entry(tmp_path, crop_style="centre", caption_strategy="instance_prompt", instance_prompt="a")
    (images,) = load(tmp_path, [said]).images
    assert (images.crop_style, images.caption_strategy) == ("center", "instanceprompt")


def test_every_crop(tmp_path: Path) -> None:
    for aspect in ("square", "preserve", "random", "closest"):
        for style in ("center", "random", "corner", "face"):
            said = entry(
                tmp_path, crop=True, crop_aspect=aspect, crop_style=style, crop_aspect_buckets=[1, 0.75], repeats=2
            )
            (images,) = load(tmp_path, [said]).images
            assert (images.crop_aspect, images.crop_style) == (aspect, style)
            assert images.crop_aspect_buckets == (1.0, 0.75)


def test_disabled_entries_are_not_looked_at(tmp_path: Path) -> None:
    entries = [entry(tmp_path), {"disabled": True, "nonsense": 1}, {"id": "mine", "disable": True, "type": "aws"}]
    assert [images.id for images in load(tmp_path, entries).images] == ["mine"]


def test_absolute_paths_and_home_stand_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    said = entry(tmp_path, instance_data_dir="~/images", cache_dir_vae=str(tmp_path / "else"))
    (images,) = load(tmp_path, [said]).images
    assert (images.instance_data_dir, images.cache_dir_vae) == (tmp_path / "images", tmp_path / "else")


@pytest.mark.parametrize("key", IMAGE_KEYS)
def test_a_misspelt_key_is_told_with_the_one_that_was_meant(tmp_path: Path, key: str) -> None:
    slip = key[:1] + key[1] + key[1:]
    said = entry(tmp_path)
    if key in said:
        said = {name: value for name, value in said.items() if name != key}
    told = {problem.option.rpartition(" ")[2]: problem.fix for problem in problems(tmp_path, [said | {slip: 1}])}
    assert told[slip] == f"did you mean {key}?"


@pytest.mark.parametrize("key", IMAGE_KEYS)
def test_a_value_of_the_wrong_kind_is_told(tmp_path: Path, key: str) -> None:
    for wrong in ({"a": 1}, "False", True, 1):
        kind = str(LocalDataset.model_fields[key].annotation)
        fitting = {bool: "bool", int: ("int", "float"), str: ("str", "Path")}.get(type(wrong), ())
        names = (fitting,) if isinstance(fitting, str) else fitting
        if any(name in kind for name in names):
            continue
        told = problems(tmp_path, [entry(tmp_path, **{key: wrong})])
        (problem,) = [each for each in told if each.option.endswith(f"key {key}")]
        assert problem.value == json.dumps(wrong)
        assert problem.reason
        assert problem.fix


def test_false_in_quotes_is_no_truth(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, [entry(tmp_path, crop="False")])
    assert (problem.reason, problem.fix) == ("it must be true or false", "write it without quotes")


@pytest.mark.parametrize("key", TEXT_KEYS)
def test_text_entries_are_as_strict(tmp_path: Path, key: str) -> None:
    said = {"id": "t", "type": "local", "dataset_type": "text_embeds", key: [1]}
    (problem,) = problems(tmp_path, [entry(tmp_path), said])
    assert problem.option.endswith(f"key {key}")
    slip = {"id": "t", "type": "local", "dataset_type": "text_embeds", key + "s": 1}
    (problem,) = problems(tmp_path, [entry(tmp_path), slip])
    assert problem.fix == f"did you mean {key}?"


@pytest.mark.parametrize(
    ("more", "key"),
    [
        ({"maximum_image_size": 1.0}, "maximum_image_size"),
        ({"target_downsample_size": 1.0}, "target_downsample_size"),
        ({"maximum_image_size": 1.0, "target_downsample_size": 2.0}, "target_downsample_size"),
        (
            {"minimum_image_size": 2.0, "maximum_image_size": 1.0, "target_downsample_size": 1.0},
            "minimum_image_size",
        ),
        ({"crop": True, "crop_aspect": "random"}, "crop_aspect"),
        ({"crop": True, "crop_aspect": "closest"}, "crop_aspect"),
        ({"caption_strategy": "instanceprompt"}, "caption_strategy"),
        ({"prepend_instance_prompt": True}, "prepend_instance_prompt"),
        ({"only_instance_prompt": True}, "only_instance_prompt"),
        ({"resolution": 1024}, "resolution"),
        ({"resolution": 1.0, "resolution_type": "pixel"}, "resolution"),
        ({"resolution": 0.001}, "resolution"),
        ({"aspect_bucket_alignment": 24}, "aspect_bucket_alignment"),
        ({"instance_data_dir": "nowhere"}, "instance_data_dir"),
        ({"instance_data_dir": "multidatabackend.json"}, "instance_data_dir"),
        ({"instance_data_dir": "."}, "instance_data_dir"),
        ({"cache_dir_vae": "images/cache"}, "cache_dir_vae"),
        ({"skip_file_discovery": "vae metdata"}, "skip_file_discovery"),
        ({"text_embeds": "nobody"}, "text_embeds"),
        ({"type": "locl"}, "type"),
        ({"dataset_type": "images"}, "dataset_type"),
        ({"disabled": "yes"}, "disabled"),
        ({"caption_strategy": "parquet"}, "caption_strategy"),
        ({"metadata_backend": "parquet"}, "metadata_backend"),
        ({"conditioning_data": "edges"}, "conditioning_data"),
        ({"type": "ftp"}, "type"),
        ({"ignore_epochs": True}, "ignore_epochs"),
        ({"probability": 0}, "probability"),
        ({"max_num_samples": 0}, "max_num_samples"),
    ],
)
def test_what_cannot_be_is_told_by_entry_and_key(tmp_path: Path, more: dict[str, Any], key: str) -> None:
    (problem,) = problems(tmp_path, [entry(tmp_path, **more)])
    assert problem.option == f"multidatabackend.json: entry mine, key {key}"
    assert problem.fix


def test_a_text_cache_may_not_lie_among_the_images(tmp_path: Path) -> None:
    text = {"id": "t", "type": "local", "dataset_type": "text_embeds", "cache_dir": "images/text"}
    (problem,) = problems(tmp_path, [entry(tmp_path), text])
    assert "nothing may be written" in problem.reason


def test_keys_of_later_are_accepted_where_they_ask_for_nothing(tmp_path: Path) -> None:
    nothing = {key: later.harmless[0] for key, later in LATER_IMAGE_KEYS.items()}
    more = {"hash_filenames": True, "preserve_data_backend_cache": True, "skip_file_discovery": "vae,text"}
    assert load(tmp_path, [entry(tmp_path, **nothing, **more)]).images
    something = dict.fromkeys(LATER_IMAGE_KEYS, 0.5)
    told = problems(tmp_path, [entry(tmp_path, **something)])
    assert len(told) == len(LATER_IMAGE_KEYS)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[{"id": "a",}]', r"line 1, column \d+"),
        ('[\n  {"id": "a"\n   "b": 1}]', "line 3, column 4"),
        ('[{"id": "a", "id": "b"}]', 'the key "id" is set twice'),
        ("{}", "list of entries"),
        ("[]", "no entry names images"),
        ("[3]", "it is not an object"),
        ('[{"resolution": NaN}]', "NaN is not a number"),
    ],
)
def test_a_file_that_is_no_list_of_entries(tmp_path: Path, text: str, reason: str) -> None:
    told = problems(tmp_path, text)
    assert any(re.search(reason, problem.reason) for problem in told)


@pytest.mark.parametrize("name", ["..", ".", "../..", "a/b", "/abs", "a\\b", "a\0b", "x" * 101])
@pytest.mark.parametrize("kind", [None, "text_embeds", "image_embeds", "eval"])
def test_an_id_is_a_name_and_not_a_path(tmp_path: Path, name: str, kind: str | None) -> None:
    more = {} if kind is None else {"dataset_type": kind}
    told = problems(tmp_path, [entry(tmp_path), {**entry(tmp_path), "id": name, **more}])
    (problem,) = [each for each in told if each.option.endswith("key id")]
    assert "it must be a name" in problem.reason


@pytest.mark.parametrize("key", ["repeats", "resolution", "max_num_samples", "vae_batch_size"])
@pytest.mark.parametrize("value", [10**30, 10**400])
def test_numbers_of_an_entry_have_an_upper_bound(tmp_path: Path, key: str, value: int) -> None:
    told = problems(tmp_path, [entry(tmp_path, **{key: value})])
    assert any(problem.option.endswith(f"key {key}") for problem in told)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    config = run_config(tmp_path, data_backend_config=str(tmp_path / "nowhere.json"))
    with pytest.raises(ConfigError, match=r"nowhere\.json"):
        load_datasets(config)
    (tmp_path / "multidatabackend.json").write_bytes(b'["\xff"]')
    with pytest.raises(ConfigError, match="UTF-8"):
        load_datasets(run_config(tmp_path))


def test_a_named_file_wins_over_the_output_folders(tmp_path: Path) -> None:
    load(tmp_path, [entry(tmp_path)])
    named = tmp_path / "named.json"
    named.write_text(json.dumps([entry(tmp_path, id="named")]))
    assert load_datasets(run_config(tmp_path, data_backend_config=str(named))).images[0].id == "named"


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    entries = [
        entry(tmp_path, id="one", crop="False", resolutoin=1, maximum_image_size=1.0, instance_data_dir="nowhere"),
        entry(tmp_path, id="one"),
        {"id": "two", "type": "local"},
        entry(tmp_path, id="three", type="floppy"),
    ]
    told = [problem.option.removeprefix("multidatabackend.json: entry ") for problem in problems(tmp_path, entries)]
    assert sorted(told) == [
        "one, key crop",
        "one, key id",
        "one, key instance_data_dir",
        "one, key maximum_image_size",
        "one, key resolutoin",
        "three, key type",
        "two, key instance_data_dir",
    ]
