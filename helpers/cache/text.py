"""Encodes every caption once by every text encoder, so that training loads none of them.

Each encoder's outputs are kept under a key of their own: a longer T5 length has T5 encode again, not CLIP.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from helpers.cache.keys import Keys, text_key, text_keys
from helpers.cache.release import release_device_memory
from helpers.cache.store import open_tensors
from helpers.cache.upkeep import open_and_check, settle
from helpers.cache.writer import ShardWriter
from helpers.config.options.data import CacheOptions
from helpers.errors import CacheError
from helpers.models.protocols import TextEmbedding, TextPart
from helpers.ranks import Ranks
from helpers.reporting.reporter import Reporter
from helpers.reporting.stages import stage
from helpers.storage.protocols import CacheStore

CAPTION_SHOWN_CHARACTERS = 80


class TextCache:
    """Reads captions' embeddings; opened after `fill_text_cache`."""

    def __init__(
        self,
        stores: Sequence[CacheStore],
        *,
        parts: Sequence[TextPart],
        assemble: Callable[[Sequence[Mapping[str, Tensor]]], TextEmbedding],
    ) -> None:
        self._stores = tuple(open_tensors(store) for store in stores)
        self._identities = tuple(part.identity for part in parts)
        self._assemble = assemble

    def embedding(self, caption: str) -> TextEmbedding:
        """A caption's prompt_embeds [L, D] and pooled [P], bf16; raises CacheError for one that was not cached."""
        keys = [text_key(caption, part_identity=identity) for identity in self._identities]
        for tensors in self._stores:
            try:
                return self._assemble([tensors.read(key) for key in keys])
            except KeyError:
                continue
        places = " or ".join(tensors.store.describe() for tensors in self._stores)
        raise CacheError(
            f"{_shown(caption)} is not in the text cache {places}, "
            "as its file changed during the run or the cache was pruned. Start again: what is missing is encoded."
        )


def fill_text_cache(
    captions: Iterable[str],
    *,
    parts: Sequence[TextPart],
    store: CacheStore,
    options: CacheOptions,
    write_batch_size: int,
    ranks: Ranks,
    reporter: Reporter,
    scan_for_errors: bool = False,
) -> None:
    """Encode what the cache lacks of these captions, each once, by one encoder after the other.

    An encoder is loaded only where something is missing, and dropped before the next. Ranks divide the captions.
    Returns on all ranks when everything is on disk. Raises CacheError where outputs are no numbers or can't be written.
    """
    wanted = tuple(dict.fromkeys(captions))

    def describe(key: str) -> str | None:
        for part in parts:
            hits = (text_keys(wanted, part_identity=part.identity) == key.encode()).nonzero()[0]
            if len(hits):
                return f"{_shown(wanted[hits[0]])} ({part.name})"
        return None

    tensors = open_and_check(store, scan_for_errors=scan_for_errors, describe=describe, ranks=ranks, reporter=reporter)
    mine = wanted[ranks.rank :: ranks.world_size]
    for part in parts:
        keys = text_keys(mine, part_identity=part.identity)
        missing = tensors.missing(keys).nonzero()[0].tolist()
        if missing:
            with ShardWriter(
                store, rank=ranks.rank, write_batch_size=write_batch_size, compress=options.compress_disk_cache
            ) as writer:
                _encode([mine[row] for row in missing], keys[missing], part=part, writer=writer, reporter=reporter)
            release_device_memory()
    settle(store, ranks=ranks)


def _encode(captions: Sequence[str], keys: Keys, *, part: TextPart, writer: ShardWriter, reporter: Reporter) -> None:
    """Encode captions by one encoder, which is free to go when this returns."""
    with stage(reporter, f"encode captions with {part.name}", total=len(captions), unit="captions") as advance:
        encoder = part.load()
        for first in range(0, len(captions), part.batch_size):
            batch = captions[first : first + part.batch_size]
            outputs = encoder.encode(batch)
            _check(outputs, batch, part=part)
            names = (key.decode() for key in keys[first : first + part.batch_size].tolist())
            writer.add({key: {name: output[row] for name, output in outputs.items()} for row, key in enumerate(names)})
            advance(len(batch))


def _check(outputs: Mapping[str, Tensor], captions: Sequence[str], *, part: TextPart) -> None:
    for name, output in outputs.items():
        assert output.dtype == torch.bfloat16 and len(output) == len(captions), (
            f"{part.name} broke its promise on {name}"
        )
        finite = output.flatten(1).isfinite().all(dim=1)
        if not finite.all():
            caption = captions[int(finite.logical_not().nonzero()[0])]
            raise CacheError(
                f"{part.name} made something that is not a number of {_shown(caption)}. "
                "Its weights or its precision do not work on this device: try another precision for it."
            )


def _shown(caption: str) -> str:
    """A caption in a message: cut, and printable even where its file's name is not UTF-8."""
    cut = caption if len(caption) <= CAPTION_SHOWN_CHARACTERS else caption[: CAPTION_SHOWN_CHARACTERS - 1] + "…"
    return "the caption " + repr(cut.encode("utf-8", "backslashreplace").decode())
