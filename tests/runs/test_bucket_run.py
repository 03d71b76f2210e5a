"""Images and caches in a bucket give the weights that a folder gives, also where the server fails now and then."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.buckets import KEYS, BucketServer, signature_server
from tests.faulty import faulty_proxy
from tests.runs.harness import SmallRun, draw_set, encoded, image_dataset, same


@pytest.fixture
def server(buckets: BucketServer, tmp_path: Path) -> BucketServer:
    """The small dataset in the bucket `images`, and an empty bucket `caches`."""
    draw_set(tmp_path / "colors")
    for bucket in ("images", "caches"):
        buckets.address(bucket)
        for name in buckets.names(bucket):
            buckets.client.delete_object(Bucket=bucket, Key=name)
    for file in (tmp_path / "colors").iterdir():
        buckets.put("images", f"sets/colors/{file.name}", file.read_bytes())
        buckets.put("images", f"sets/colors/{file.stem}.txt", f"a {file.stem}\nthe {file.stem}".encode())
        (tmp_path / "colors" / f"{file.stem}.txt").write_text(f"a {file.stem}\nthe {file.stem}")
    return buckets


def keys(endpoint: str, bucket: str, prefix: str) -> dict[str, Any]:
    access, secret, _ = KEYS
    said = {"type": "aws", "aws_bucket_name": bucket, "aws_data_prefix": prefix, "aws_endpoint_url": endpoint}
    return {**said, "aws_access_key_id": access, "aws_secret_access_key": secret}


def far_run(folder: Path, pipeline: Path, endpoint: str) -> SmallRun:
    """A run of which everything but OUTPUT_DIR is in buckets."""
    images = image_dataset(
        caption_strategy="textfile", image_embeds="latents", **keys(endpoint, "images", "sets/colors")
    )
    del images["instance_data_dir"], images["cache_dir_vae"]
    latents = {
        "id": "latents",
        "dataset_type": "image_embeds",
        **keys(endpoint, "caches", "vae"),
        "write_batch_size": 1,
    }
    texts = {"id": "texts", "dataset_type": "text_embeds", **keys(endpoint, "caches", "text")}
    return SmallRun(folder, pipeline, datasets=[images, latents, texts])


def near_weights(folder: Path, pipeline: Path) -> dict[str, Any]:
    images = image_dataset(caption_strategy="textfile", instance_data_dir=str(folder / "colors"))
    run = SmallRun(folder / "near", pipeline, datasets=[images])
    assert run.start() == 0
    return run.weights()


def test_a_bucket_gives_the_weights_of_a_folder_also_through_failures(
    server: BucketServer, tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = near_weights(tmp_path, tiny_pipeline)
    with faulty_proxy(server.endpoint, every=7) as (endpoint, faults):
        run = far_run(tmp_path / "far", tiny_pipeline, endpoint)
        assert run.start() == 0
        assert len(faults) > 4, "one request in seven was spoilt"
    assert same(near, run.weights())
    said = capsys.readouterr().out
    written = b"".join(file.read_bytes() for file in run.output.rglob("*") if file.is_file() and file.suffix != ".png")
    written = written.replace((run.output / "multidatabackend.json").read_bytes(), b"")
    assert KEYS[1] not in said
    assert KEYS[1].encode() not in written
    assert sorted({name.split("/")[0] for name in server.names("caches")}) == ["text", "vae"]
    shards = [name for name in server.names("caches") if name.startswith("vae/shard")]
    assert len(shards) == 7, "one image in each file, as the place says"


def test_a_table_about_the_images_may_lie_in_their_bucket(
    server: BucketServer, tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("red square", "yellow square")
    rows = [{"filename": name, "caption": f"a {name}", "width": 80, "height": 80} for name in names]
    server.put("images", "sets/colors/tables/about.jsonl", "\n".join(map(json.dumps, rows)).encode())
    run = far_run(tmp_path / "far", tiny_pipeline, server.endpoint)
    columns = {"caption_column": "caption", "width_column": "width", "height_column": "height"}
    table = {"path": "tables/about.jsonl", **columns}
    run.datasets[0] |= {"caption_strategy": "parquet", "metadata_backend": "parquet", "parquet": table}
    assert run.start(max_train_steps=1) == 0
    said = capsys.readouterr().out
    assert encoded(said) == {"colors": 2, "clip_l": 3, "clip_g": 3, "t5": 3}
    run.datasets[0] |= {"parquet": table | {"path": "tables/nowhere.jsonl"}}
    assert run.start(max_train_steps=1) == 1
    assert "the table tables/nowhere.jsonl in the bucket images/sets/colors" in capsys.readouterr().err


@pytest.mark.parametrize(("asked", "most"), [(1, 1), (7, 7)])
def test_so_many_images_are_read_at_once(
    server: BucketServer, tmp_path: Path, tiny_pipeline: Path, asked: int, most: int
) -> None:
    at_once: list[int] = []
    with faulty_proxy(server.endpoint, every=None, at_once=at_once) as (endpoint, _):
        images = image_dataset(**keys(endpoint, "images", "sets/colors"))
        del images["instance_data_dir"]
        run = SmallRun(tmp_path / "run", tiny_pipeline, datasets=[images])
        assert run.start(cache_only=True, aws_max_pool_connections=asked) == 0
    assert max(at_once) <= most
    assert max(at_once) > 1 or asked == 1


@pytest.mark.parametrize("wrong", ["secret", "bucket", "endpoint"])
def test_what_is_wrong_with_a_bucket_is_told_once_and_soon(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    (tmp_path / "served/images").mkdir(parents=True)
    with signature_server(tmp_path / "served", access="right-key", secret="right-secret") as endpoint:
        said = {"secret": "right-secret", "bucket": "images", "endpoint": endpoint}
        said[wrong] = {"secret": "wrong-secret", "bucket": "not-there", "endpoint": "http://127.0.0.1:9"}[wrong]
        images = image_dataset(**keys(said["endpoint"], said["bucket"], "sets"))
        del images["instance_data_dir"]
        images |= {"aws_access_key_id": "right-key", "aws_secret_access_key": said["secret"]}
        run = SmallRun(tmp_path / "run", tiny_pipeline, datasets=[images])
        started = time.monotonic()
        assert run.start() == 1
    assert time.monotonic() - started < 60, "bounded, not timed"
    told = capsys.readouterr()
    place = f"the bucket {said['bucket']}/sets at {said['endpoint']} (entry colors)"
    (line,) = [line for line in told.err.splitlines() if place in line]
    fix = {"secret": "aws_secret_access_key", "bucket": "aws_bucket_name", "endpoint": "aws_endpoint_url"}[wrong]
    assert f"Check {fix}" in line or fix in line.partition("Check ")[2]
    assert "Traceback" not in told.err
    assert "-secret" not in told.out + told.err.replace(fix, "")


def test_captions_are_kept_where_each_data_set_says_and_each_encoder_is_loaded_once(
    server: BucketServer, tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = image_dataset(instance_data_dir=str(tmp_path / "colors"), text_embeds="far")
    other = image_dataset(id="other", instance_data_dir=str(tmp_path / "colors"), prepend_instance_prompt=True)
    other |= {"instance_prompt": "sks", "cache_dir_vae": "cache/other"}
    far = {"id": "far", "dataset_type": "text_embeds", **keys(server.endpoint, "caches", "text")}
    near = {"id": "near", "type": "local", "dataset_type": "text_embeds", "default": True, "cache_dir": "texts"}
    run = SmallRun(tmp_path / "run", tiny_pipeline, datasets=[one, other, far, near])
    assert run.start(max_train_steps=2) == 0
    assert encoded(capsys.readouterr().out)["t5"] == 7 + 7 + 1, "both datasets' captions, and the empty one"
    plain = SmallRun(tmp_path / "plain", tiny_pipeline, datasets=[{**one, "text_embeds": "near"}, other, near])
    assert plain.start(max_train_steps=2) == 0
    assert same(run.weights(), plain.weights())
    assert server.names("caches")
    assert list((run.output / "texts").glob("*.safetensors"))


def test_another_machine_goes_on_encodes_nothing_again_and_learns_the_same(
    server: BucketServer, tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    near = near_weights(tmp_path, tiny_pipeline)
    first = far_run(tmp_path / "one", tiny_pipeline, server.endpoint)
    assert first.start(max_train_steps=2) == 0
    before = server.names("caches")
    other = far_run(tmp_path / "two", tiny_pipeline, server.endpoint)
    other.output.mkdir(parents=True)
    shutil.copytree(first.output / "checkpoint-2", other.output / "checkpoint-2")
    capsys.readouterr()
    assert other.start() == 0
    said = capsys.readouterr().out
    assert not encoded(said)
    assert "fetch cached files from the bucket caches/vae" in said
    assert server.names("caches") == before
    assert same(near, other.weights())
