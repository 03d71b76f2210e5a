"""A key changes with everything an entry depends on, and with nothing else."""

from dataclasses import replace
from hashlib import blake2b

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.cache.keys import latent_key, latent_keys, text_key, text_keys
from helpers.data.types import Box, Catalog, Geometry, ImageRecord, Size
from helpers.storage.local import LocalSource

RECORD = ImageRecord(
    dataset_id="photos",
    path="cats/a.png",
    size_bytes=1234,
    tag="77",
    size=Size(640, 480),
    geometry=Geometry(Size(512, 384), Box(64, 0, 448, 384)),
    captions=("a cat",),
)


@pytest.mark.parametrize(
    "change",
    [
        {"dataset_id": "images"},
        {"path": "dogs/a.png"},
        {"path": "cats/a.jpg"},
        {"size_bytes": 1235},
        {"tag": "78"},
        {"geometry": Geometry(Size(512, 384), Box(65, 0, 449, 384))},
        {"geometry": Geometry(Size(511, 384), Box(64, 0, 448, 384))},
    ],
)
def test_another_image_file_or_geometry_has_another_latent(change: dict) -> None:
    assert latent_key(replace(RECORD, **change), vae_identity="v") != latent_key(RECORD, vae_identity="v")


def test_another_vae_has_another_latent_and_another_caption_has_not() -> None:
    assert latent_key(RECORD, vae_identity="w") != latent_key(RECORD, vae_identity="v")
    assert latent_key(replace(RECORD, captions=("a dog",)), vae_identity="v") == latent_key(RECORD, vae_identity="v")


@given(st.lists(st.tuples(st.text(), st.text()), min_size=2, max_size=2, unique=True))
def test_where_one_text_ends_and_the_next_begins_is_part_of_the_key(pairs: list[tuple[str, str]]) -> None:
    first, second = (
        latent_key(replace(RECORD, path=path, tag=tag), vae_identity="v") + text_key(path, part_identity=tag)
        for path, tag in pairs
    )
    assert first[:32] != second[:32]
    assert first[32:] != second[32:]


def test_names_that_are_not_utf8_have_keys_of_their_own() -> None:
    names = [b"\xff.png".decode("utf-8", "surrogateescape"), b"\xfe.png".decode("utf-8", "surrogateescape"), "\ud800"]
    keys = {latent_key(replace(RECORD, path=name), vae_identity="v") for name in names}
    assert len(keys | {text_key(name, part_identity="p") for name in names}) == 6


def test_many_keys_are_those_of_one_at_a_time(tmp_path) -> None:
    paths = ["a.png", "b/a.png", "ü\udcff.png"]
    catalog = Catalog(
        dataset_id="photos",
        source=LocalSource(tmp_path),
        repeats=0,
        paths=paths,
        tags=["1", "", "3"],
        size_bytes=np.array([1, 2, 3]),
        sizes=np.full((3, 2), 64, dtype=np.int32),
        geometries=np.arange(18, dtype=np.int32).reshape(3, 6),
        captions_of=lambda index: (paths[index],),
    )
    one_by_one = [latent_key(catalog.record(index), vae_identity="v").encode() for index in range(3)]
    assert latent_keys(catalog, vae_identity="v").tolist() == one_by_one
    assert text_keys(paths, part_identity="p").tolist() == [text_key(p, part_identity="p").encode() for p in paths]


def test_keys_are_those_under_which_today_s_caches_were_written() -> None:
    """BLAKE2b of the version, of each text behind its length, and of seven signed 64-bit numbers, little-endian.

    A key that differs has everyone's caches encoded again: only where the numbers behind it differ as well.
    """

    def framed(*texts: str) -> bytes:
        return b"".join(len(text).to_bytes(8, "little") + text.encode() for text in texts)

    def key(*content: bytes) -> str:
        return blake2b((1).to_bytes(4, "little") + b"".join(content), digest_size=16).hexdigest()

    numbers = b"".join(number.to_bytes(8, "little", signed=True) for number in (1234, 512, 384, 64, 0, 448, 384))
    image = framed("v", "photos", "cats/a.png", "77") + numbers
    assert latent_key(RECORD, vae_identity="v") == key(framed("latent"), image)
    assert latent_key(replace(RECORD, mirrored=True), vae_identity="v") == key(framed("mirrored latent"), image)
    assert text_key("a cat", part_identity="p") == key(framed("text", "p", "a cat"))
