"""Pictures and caches in a bucket give the weights that a folder gives, also where the server fails now and then."""

from pathlib import Path
from typing import Any

import pytest

from tests.buckets import KEYS, BucketServer
from tests.faulty import faulty_proxy
from tests.runs.harness import SmallRun, draw_set, image_dataset, same


@pytest.fixture
def server(buckets: BucketServer, tmp_path: Path) -> BucketServer:
    """The small data set in the bucket `pictures`, and an empty bucket `caches`."""
    draw_set(tmp_path / "colours")
    for bucket in ("pictures", "caches"):
        buckets.address(bucket)
        for name in buckets.names(bucket):
            buckets.client.delete_object(Bucket=bucket, Key=name)
    for file in (tmp_path / "colours").iterdir():
        buckets.put("pictures", f"sets/colours/{file.name}", file.read_bytes())
        buckets.put("pictures", f"sets/colours/{file.stem}.txt", f"a {file.stem}\nthe {file.stem}".encode())
        (tmp_path / "colours" / f"{file.stem}.txt").write_text(f"a {file.stem}\nthe {file.stem}")
    return buckets


def keys(endpoint: str, bucket: str, prefix: str) -> dict[str, Any]:
    access, secret, _ = KEYS
    said = {"type": "aws", "aws_bucket_name": bucket, "aws_data_prefix": prefix, "aws_endpoint_url": endpoint}
    return {**said, "aws_access_key_id": access, "aws_secret_access_key": secret}


def far_run(folder: Path, pipeline: Path, endpoint: str) -> SmallRun:
    """A run of which everything but OUTPUT_DIR is in buckets."""
    images = image_dataset(
        caption_strategy="textfile", image_embeds="latents", **keys(endpoint, "pictures", "sets/colours")
    )
    del images["instance_data_dir"], images["cache_dir_vae"]
    latents = {"id": "latents", "dataset_type": "image_embeds", **keys(endpoint, "caches", "vae")}
    texts = {"id": "texts", "dataset_type": "text_embeds", **keys(endpoint, "caches", "text")}
    return SmallRun(folder, pipeline, datasets=[images, latents, texts])


def near_weights(folder: Path, pipeline: Path) -> dict[str, Any]:
    images = image_dataset(caption_strategy="textfile", instance_data_dir=str(folder / "colours"))
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


def test_another_machine_encodes_nothing_again(
    server: BucketServer, tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = far_run(tmp_path / "one", tiny_pipeline, server.endpoint)
    assert first.start(max_train_steps=2) == 0
    before = server.names("caches")
    capsys.readouterr()
    other = far_run(tmp_path / "two", tiny_pipeline, server.endpoint)
    assert other.start(max_train_steps=2) == 0
    assert "encode " not in capsys.readouterr().out
    assert server.names("caches") == before
    assert same(first.weights(), other.weights())
