"""Places for what is encoded, in folders and buckets: datasets name them, and mistakes about them show no secret."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.config.test_datasets import entry, load, problems


def test_of_several_text_stores_one_is_the_default(tmp_path: Path) -> None:
    first = {"id": "a", "type": "local", "dataset_type": "text_embeds", "cache_dir": "a"}
    second = {"id": "b", "type": "local", "dataset_type": "text_embeds", "cache_dir": "b", "default": True}
    assert load(tmp_path, [entry(tmp_path), first]).text_embeds.id == "a"
    assert load(tmp_path, [entry(tmp_path), first, second]).text_embeds.id == "b"
    for wrong in ([first, first | {"id": "c"}], [second, second | {"id": "c"}]):
        (problem,) = problems(tmp_path, [entry(tmp_path), *wrong])
        assert "must be the default" in problem.reason


def test_data_sets_name_the_places_of_what_is_encoded(tmp_path: Path) -> None:
    texts = {"type": "local", "dataset_type": "text_embeds"}
    found = load(
        tmp_path,
        [
            entry(tmp_path, id="one", image_embeds="latents", text_embeds="b"),
            entry(tmp_path, id="two"),
            {"id": "latents", "type": "local", "dataset_type": "image_embeds", "cache_dir": "there"},
            {"id": "a", "default": True, "cache_dir": "a", **texts},
            {"id": "b", "cache_dir": "b", **texts},
        ],
    )
    one, two = found.images
    assert found.latents_of(one).cache_dir.name == "there"
    assert found.latents_of(two).cache_dir == two.cache_dir_vae
    assert (found.text_store_of(one).id, found.text_store_of(two).id) == ("b", "a")


@pytest.mark.parametrize(
    "wrong",
    [{"aws_secret_access_key": ["planted"]}, {"aws_secert_acess_key": "planted"}, {"aws_secret_access_key": "planted"}],
)
def test_a_secret_in_a_mistake_is_not_shown(tmp_path: Path, wrong: dict[str, Any]) -> None:
    told = problems(tmp_path, [{"id": "far", "type": "aws", "aws_bucket_name": "b", **wrong}])
    assert told
    assert "planted" not in str(told)


def test_places_in_buckets_have_mirrors_of_their_own_and_local_ones_two_names_for_their_folder(tmp_path: Path) -> None:
    far = {"type": "aws", "aws_bucket_name": "b", "dataset_type": "text_embeds"}
    near = {"type": "local", "dataset_type": "image_embeds", "instance_data_dir": "there", "write_batch_size": 3}
    found = load(
        tmp_path,
        [entry(tmp_path), {"id": "texts", **far}, {"id": "unused", **far, "default": True}, {"id": "near", **near}],
    )
    folders = [store.cache_dir.relative_to(tmp_path) for store in (*found.text_stores, *found.image_embeds)]
    assert folders == [Path("cache/mirrors/unused"), Path("cache/mirrors/texts"), Path("there")]


def test_half_a_pair_of_keys_is_told(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, [{"id": "far", "type": "aws", "aws_bucket_name": "b", "aws_access_key_id": "k"}])
    assert "aws_secret_access_key" in problem.reason


def test_a_place_that_is_not_there_or_said_twice_is_told(tmp_path: Path) -> None:
    place = {"id": "latents", "type": "local", "dataset_type": "image_embeds"}
    (unknown,) = problems(tmp_path, [entry(tmp_path, image_embeds="latent"), place])
    assert "latents" in unknown.fix
    (twice,) = problems(tmp_path, [entry(tmp_path, image_embeds="latents", cache_dir_vae="vae"), place])
    assert twice.option.endswith("key cache_dir_vae")
    (elsewhere,) = problems(tmp_path, [entry(tmp_path), {**place, "type": "csv"}])
    assert "folder or a bucket" in elsewhere.reason


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({}, "aws_bucket_name"),
        ({"aws_bucket_name": "b", "aws_endpoint_url": "localhost:9000"}, "aws_endpoint_url"),
        ({"aws_bucket_name": "b", "aws_bucket_nam": "c"}, "aws_bucket_nam"),
    ],
)
def test_what_a_bucket_cannot_be_is_told_by_key(tmp_path: Path, said: dict[str, Any], key: str) -> None:
    (problem,) = problems(tmp_path, [{"id": "far", "type": "aws", **said}])
    assert problem.option.endswith(f"key {key}")
    assert problem.fix
