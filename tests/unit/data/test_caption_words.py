"""Words are taken out of captions and tags change places, the same way each time they are looked at."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.data.captions import CaptionFilter, Shuffle
from helpers.reporting.events import Notice
from tests.unit.data.folders import Folder, reasons

TAGS = st.lists(st.text("abcdef", min_size=1, max_size=4), min_size=1, max_size=8)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def shuffle(**more: Any) -> Shuffle:
    return Shuffle(**{"seed": 0, "count": 4, "keep": 0, "separator": ",", **more})


@given(TAGS, st.integers(0, 9), st.integers(0, 2**32), st.integers(1, 5))
def test_orders_keep_every_tag_and_the_first_ones_in_place(tags: list[str], keep: int, seed: int, count: int) -> None:
    caption = ", ".join(tags)
    orders = shuffle(seed=seed, keep=keep, count=count)([caption])
    assert len(orders) == count
    for order in orders:
        found = order.split(", ")
        assert found[:keep] == tags[:keep] and sorted(found) == sorted(tags)
    assert orders == shuffle(seed=seed, keep=keep, count=count)([caption])
    assert orders == shuffle(seed=seed, keep=keep, count=count + 1)([caption])[:count], "more orders keep the first"


def test_orders_differ_by_seed_and_number_and_keep_to_the_separator() -> None:
    tags = "one. two. three. four. five. six"
    orders = {seed: shuffle(seed=seed, separator=".")([tags]) for seed in range(4)}
    assert len({order for found in orders.values() for order in found}) == 16
    assert all(order.count(". ") == 5 for found in orders.values() for order in found)
    assert shuffle(separator=" ", keep=1)(["a b c d"])[0].startswith("a ")
    assert shuffle()(["a sentence", "another"]) == ("a sentence", "another") * 4


def test_every_order_has_an_equal_chance() -> None:
    counts: dict[str, int] = {}
    for order in shuffle(count=6000)(["a,b,c"]):
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6 and all(850 < count < 1150 for count in counts.values()), counts


def test_filters_change_captions_count_them_and_drop_what_is_empty() -> None:
    words = CaptionFilter(("a photo of", r"\s*\d+$", "never"))
    assert words(("a photo of a cat 12", "a  dog", "a photo of 7")) == ("a cat", "a  dog")
    assert str(words) == r"captions changed by caption_filter_list: 'a photo of' 2, '\\s*\\d+$' 2, 'never' 0"


def test_a_catalog_says_what_is_left_of_captions(folder: Folder) -> None:
    for name in ("a photo of a cat", "a photo of"):
        folder.put(f"{name}.jpg")
    catalog = folder.open(filters=("a photo of",), prepend_instance_prompt=True, instance_prompt="my")
    assert [catalog.captions_of(row) for row in range(len(catalog))] == [("my a cat",)]
    assert reasons(catalog) == {"a photo of.jpg": "has no caption left after caption_filter_list"}
    assert any("'a photo of' 2" in heard.text for heard in folder.listener.heard if isinstance(heard, Notice))


def test_a_catalogs_captions_are_all_orders_of_all_lines(folder: Folder) -> None:
    folder.put("a.jpg")
    folder.put("a.txt", b"x, y, z\nsome words\n")
    said: dict[str, Any] = {"caption_strategy": "textfile", "caption_shuffle": True, "caption_shuffle_count": 3}
    captions = folder.open(**said).captions_of(0)
    assert len(captions) == 6 and captions[1::2] == ("some words",) * 3
    assert all(sorted(each.split(", ")) == ["x", "y", "z"] for each in captions[::2])
    assert folder.open(**said).captions_of(0) == captions != folder.open(seed=1, **said).captions_of(0)
