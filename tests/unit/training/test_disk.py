"""A disk too small for the caches is told of before anything is encoded."""

from pathlib import Path

import pytest

from helpers.errors import CacheError
from helpers.training.disk_space import CacheNeed, check_cache_space, free_bytes


def need(folder: Path, *, size_bytes: int, name: str = "cats") -> CacheNeed:
    return CacheNeed(name=name, unit="images", folder=folder, total=10, missing=4, size_bytes=size_bytes)


def test_two_caches_on_one_disk_share_its_room(tmp_path: Path) -> None:
    needs = [need(tmp_path / "vae", size_bytes=6_000_000), need(tmp_path / "text", size_bytes=5_000_000, name="t5")]
    check_cache_space(lambda look: needs, free=lambda folder: 11_000_000)
    with pytest.raises(CacheError) as told:
        check_cache_space(lambda look: needs, free=lambda folder: 10_000_000)
    said = str(told.value)
    assert "need 11 MB more (cats 6 MB, t5 5 MB), but only 10 MB are free" in said
    assert str(tmp_path / "vae") in said
    for fix in ("cache_dir_vae", "compress_disk_cache", "smaller resolution"):
        assert fix in said


def test_what_the_caches_hold_already_is_looked_up_only_where_it_decides(tmp_path: Path) -> None:
    looks: list[bool] = []

    def needs(*, look: bool) -> list[CacheNeed]:
        looks.append(look)
        return [need(tmp_path, size_bytes=2_000_000 if look else 9_000_000)]

    check_cache_space(needs, free=lambda folder: 9_000_000)
    assert looks == [False]
    check_cache_space(needs, free=lambda folder: 3_000_000)
    assert looks == [False, False, True]
    with pytest.raises(CacheError, match="need 2 MB more"):
        check_cache_space(needs, free=lambda folder: 1_000_000)


def test_the_room_of_a_folder_to_be_is_that_of_the_folder_it_will_be_in(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "there") == pytest.approx(free_bytes(tmp_path), rel=0.05)
