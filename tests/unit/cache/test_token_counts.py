"""Captions are counted once, and a start that encodes nothing still tells of the long ones."""

from collections.abc import Callable, Sequence
from pathlib import Path

from helpers.cache.token_counts import token_counts
from helpers.models.family import TokenLimit
from helpers.storage.local import LocalCache


class Words:
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
    words, store = Words(), LocalCache(tmp_path)
    captions = [f"{'word ' * number}end" for number in range(50)]
    assert token_counts(captions[:40], limit=words.limit(), store=store).tolist() == list(range(1, 41))
    assert token_counts(captions[::-1], limit=words.limit(), store=store).tolist() == list(range(50, 0, -1))
    assert sorted(words.asked) == sorted(captions), "each once"
    assert token_counts([], limit=words.limit(), store=store).tolist() == []
    token_counts(captions[:5], limit=words.limit("another"), store=store)
    assert words.asked[50:] == captions[:5]


def test_a_caption_of_a_whole_book_is_counted(tmp_path: Path) -> None:
    """Remembered as well as counted: more tokens than one or two bytes can tell."""
    words, store = Words(), LocalCache(tmp_path)
    captions = ["word " * 200, "word " * 70_000]
    for _ in range(2):
        assert token_counts(captions, limit=words.limit(), store=store).tolist() == [200, 70_000]
    assert len(words.asked) == 2
