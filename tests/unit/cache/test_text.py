"""Each caption is encoded once by each encoder that lacks it, and comes back bit for bit; tokens are counted once."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.cache.text import CaptionJob, TextCache, fill_text_cache, token_counts
from helpers.config.options.data import CacheOptions
from helpers.errors import CacheError
from helpers.models.family import TokenLimit
from helpers.ranks import SingleProcess
from helpers.storage.local import LocalCache
from tests.unit.cache.encoders import Heard, Words, assemble, drawn


def fill(store: LocalCache, captions, *encoders: Words, compress: bool = False, **changes) -> Heard:
    heard = Heard()
    arguments = {
        "parts": [encoder.part() for encoder in encoders],
        "options": CacheOptions(compress_disk_cache=compress),
        "ranks": SingleProcess(),
        "reporter": heard.reporter(),
    }
    wanted = CaptionJob(captions=tuple(dict.fromkeys(captions)), store=store, write_batch_size=8)
    fill_text_cache([wanted], **(arguments | changes))
    return heard


@pytest.fixture
def store(tmp_path: Path) -> LocalCache:
    return LocalCache(tmp_path / "text")


def test_equal_captions_are_encoded_once_in_batches(store: LocalCache) -> None:
    words = Words("clip")
    fill(store, ["a", "b", "a", "", "c", "d", "a"], words)
    assert sorted(words.captions) == ["", "a", "b", "c", "d"]
    assert [len(batch) for batch in words.batches] == [4, 1]


@pytest.mark.parametrize("compress", [False, True])
def test_an_embedding_is_made_of_every_encoders_outputs(store: LocalCache, compress: bool) -> None:
    clip, t5 = Words("clip"), Words("t5")
    fill(store, ["a cat", ""], clip, t5, compress=compress)
    embedding = TextCache([store], parts=[clip.part(), t5.part()], assemble=assemble).embedding("a cat")
    assert torch.equal(embedding.prompt_embeds, torch.cat([drawn("clip a cat", 5, 8), drawn("t5 a cat", 5, 8)]))
    assert torch.equal(embedding.pooled, torch.cat([drawn("clip pooled a cat", 8), drawn("t5 pooled a cat", 8)]))


def test_a_changed_caption_encodes_one_and_a_full_cache_loads_nothing(store: LocalCache) -> None:
    fill(store, ["a", "b"], Words("clip"), Words("t5"))
    again, changed = Words("clip"), Words("clip")
    fill(store, ["b", "a"], again)
    assert again.loads == 0
    fill(store, ["a", "c"], changed, Words("t5"))
    assert changed.captions == ["c"]


def test_a_change_to_one_encoder_encodes_nothing_by_the_others(store: LocalCache) -> None:
    fill(store, ["a", "b"], Words("clip"), Words("t5"))
    clip, t5 = Words("clip"), Words("t5")
    fill(store, ["a", "b"], parts=[clip.part(), t5.part(identity="t5, longer")])
    assert clip.loads == 0
    assert t5.captions == ["a", "b"]


def test_switching_compression_encodes_nothing_again(store: LocalCache) -> None:
    fill(store, ["a", "b"], Words("clip"), compress=True)
    words = Words("clip")
    fill(store, ["a", "b", "c"], words)
    assert words.captions == ["c"]
    fill(store, ["a", "b", "c"], words, compress=True)
    assert words.captions == ["c"]
    cache = TextCache([store], parts=[words.part()], assemble=assemble)
    assert all(torch.equal(cache.embedding(text).pooled, drawn(f"clip pooled {text}", 8)) for text in "abc")


def test_one_encoder_is_in_memory_at_a_time(store: LocalCache) -> None:
    alive: list[str] = []

    class Living(Words):
        def __del__(self) -> None:
            alive.remove(self.name)

    def part(name: str):
        def load() -> Living:
            assert not alive, "the one before is still there"
            alive.append(name)
            return Living(name)

        return replace(Words(name).part(), identity=name, batch_size=4, load=load)

    fill(store, ["a", "b"], parts=[part("clip"), part("t5")])
    assert not alive


def test_a_flipped_byte_is_named_by_its_caption_and_only_that_is_encoded_again(
    store: LocalCache, tmp_path: Path
) -> None:
    captions = [f"caption {number}" for number in range(6)]
    fill(store, captions, Words("clip"))
    (shard,) = (tmp_path / "text").glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    words = Words("clip")
    fill(store, captions, words)
    assert words.loads == 0
    heard = fill(store, captions, words, scan_for_errors=True)
    assert words.captions == ["caption 5"]
    assert len(heard.warnings) == 1
    assert "'caption 5'" in heard.warnings[0] and shard.name in heard.warnings[0]
    assert not fill(store, captions, words, scan_for_errors=True).warnings
    cache = TextCache([store], parts=[words.part()], assemble=assemble)
    assert all(torch.equal(cache.embedding(text).pooled, drawn(f"clip pooled {text}", 8)) for text in captions)


def test_ranks_divide_the_captions(store: LocalCache) -> None:
    captions = [f"caption {number}" for number in range(21)]
    meeting = threading.Barrier(2)

    class Rank(SingleProcess):
        def barrier(self) -> None:
            meeting.wait(timeout=30)

    encoders = [Words("clip"), Words("clip")]
    ranks = [
        threading.Thread(target=fill, args=(store, captions, encoders[rank]), kwargs={"ranks": Rank(rank, 2)})
        for rank in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert len(encoders[0].captions) in (10, 11)
    assert sorted(encoders[0].captions + encoders[1].captions) == sorted(captions)
    cache = TextCache([store], parts=[encoders[0].part()], assemble=assemble)
    assert all(torch.equal(cache.embedding(text).pooled, drawn(f"clip pooled {text}", 8)) for text in captions)


def test_what_is_not_a_number_is_an_error_that_names_the_caption(store: LocalCache) -> None:
    class Broken(Words):
        def encode(self, captions):
            outputs = super().encode(captions)
            outputs["hidden"][captions.index("bad"), 2, 3] = float("inf")
            return outputs

    with pytest.raises(CacheError, match=r"clip .* the caption 'bad'"):
        fill(store, ["good", "bad"], Broken("clip"))


def test_a_caption_that_was_not_cached_is_named(store: LocalCache) -> None:
    fill(store, ["a"], Words("clip"))
    cache = TextCache([store], parts=[Words("clip").part()], assemble=assemble)
    with pytest.raises(CacheError, match="'who am I'"):
        cache.embedding("who am I")


def test_captions_that_are_not_utf8_are_cached_like_any_other(store: LocalCache) -> None:
    odd = b"caf\xe9".decode("utf-8", "surrogateescape")
    fill(store, [odd], Words("clip"))
    cache = TextCache([store], parts=[Words("clip").part()], assemble=assemble)
    assert torch.equal(cache.embedding(odd).pooled, drawn(f"clip pooled {odd}", 8))


class WordTokenizer:
    """A tokenizer of words that remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def limit(self, identity: str = "words") -> TokenLimit:
        return TokenLimit(name="Words", tokens=3, identity=identity, load=self.load)

    def load(self) -> Callable[[Sequence[str]], list[int]]:
        return self.count

    def count(self, captions: Sequence[str]) -> list[int]:
        self.asked += captions
        return [len(caption.split()) for caption in captions]


def test_only_what_was_not_counted_is(tmp_path: Path) -> None:
    words, store = WordTokenizer(), LocalCache(tmp_path)
    captions = [f"{'word ' * number}end" for number in range(50)]
    assert token_counts(captions[:40], limit=words.limit(), store=store).tolist() == list(range(1, 41))
    assert token_counts(captions[::-1], limit=words.limit(), store=store).tolist() == list(range(50, 0, -1))
    assert sorted(words.asked) == sorted(captions), "each once"
    assert token_counts([], limit=words.limit(), store=store).tolist() == []
    token_counts(captions[:5], limit=words.limit("another"), store=store)
    assert words.asked[50:] == captions[:5]


def test_a_caption_of_a_whole_book_is_counted(tmp_path: Path) -> None:
    """Remembered as well as counted: more tokens than one or two bytes can tell."""
    words, store = WordTokenizer(), LocalCache(tmp_path)
    captions = ["word " * 200, "word " * 70_000]
    for _ in range(2):
        assert token_counts(captions, limit=words.limit(), store=store).tolist() == [200, 70_000]
    assert len(words.asked) == 2
