"""Encodes every caption with every text encoder once, so that training loads none of them.

Each encoder's outputs have their own key: after a change of T5's length, captions are encoded by T5 only, not by CLIP.
Token counts of captions are stored too, so that a start from a full cache also warns of long captions.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from helpers.cache.keys import KEY_DTYPE, Keys, identities, text_key, text_keys
from helpers.cache.maintenance import download_missing, finalize, open_and_check
from helpers.cache.store import TensorStore, open_tensors
from helpers.cache.writer import ShardWriter
from helpers.config.options.data import CacheOptions
from helpers.data.catalog.known_files import UNKNOWN, FileMetadataCache
from helpers.device import release_device_memory
from helpers.errors import CacheError
from helpers.models.family import TextEmbedding, TextEncoder, TextEncoderSpec, TokenLimit
from helpers.ranks import Ranks
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter
from helpers.storage.protocols import CacheStore

CAPTION_SHOWN_CHARACTERS = 80
TABLE = "tokens-1"
COUNT = np.dtype("<i4")
COUNTED_AT_ONCE = 4096
NO_KEYS: Keys = np.array([], dtype=KEY_DTYPE)


@dataclass(frozen=True, kw_only=True)
class CaptionJob:
    """Captions that a store should hold, each once; `write_batch_size`: entries per shard."""

    captions: Sequence[str]
    store: CacheStore
    write_batch_size: int


class TextCache:
    """Reads captions' embeddings; open it after `fill_text_cache`."""

    def __init__(
        self,
        stores: Sequence[CacheStore],
        *,
        parts: Sequence[TextEncoderSpec],
        assemble: Callable[[Sequence[Mapping[str, Tensor]]], TextEmbedding],
    ) -> None:
        self._stores = tuple(open_tensors(store) for store in stores)
        self._parts = tuple(parts)
        self._constants = {part.identity: _first(part.load().encode([""])) for part in parts if part.is_constant}
        self._assemble = assemble

    def embedding(self, caption: str) -> TextEmbedding:
        """A caption's prompt_embeds [L, D] and pooled [P], bf16; raises CacheError for one that was not cached."""
        for tensors in self._stores:
            try:
                return self._assemble([self._outputs(part, caption, tensors=tensors) for part in self._parts])
            except KeyError:
                continue
        places = " or ".join(tensors.store.describe() for tensors in self._stores)
        raise CacheError(
            f"{_shown(caption)} is not in the text cache {places}, "
            "as its file changed during the run or the cache was pruned. Start again: what is missing is encoded."
        )

    def _outputs(self, part: TextEncoderSpec, caption: str, *, tensors: TensorStore) -> Mapping[str, Tensor]:
        if part.is_constant:
            return self._constants[part.identity]
        return tensors.read_first(text_key(caption, part_identity=identity) for identity in identities(part))


def _first(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: rows[0] for name, rows in outputs.items()}


def fill_text_cache(
    wanted: Sequence[CaptionJob],
    *,
    parts: Sequence[TextEncoderSpec],
    options: CacheOptions,
    ranks: Ranks,
    reporter: Reporter,
    scan_for_errors: bool = False,
) -> None:
    """Encode the captions that each store lacks, with one encoder after the other.

    An encoder is loaded only if something is missing, and released before the next. Ranks divide the captions. Returns
    on all ranks when everything is on disk. Raises CacheError if outputs are NaN or cannot be written.
    """
    keys_of = [cache(partial(_keys_of, each.captions)) for each in wanted]

    def describe(key: str) -> str | None:
        for (each, keys_by), part in itertools.product(zip(wanted, keys_of, strict=True), parts):
            for identity in identities(part):
                hits: list[int] = (keys_by(identity) == key.encode()).nonzero()[0].tolist()
                if hits:
                    return f"{_shown(each.captions[hits[0]])} ({part.name})"
        return None

    def opened(each: CaptionJob) -> TensorStore:
        return open_and_check(
            each.store, scan_for_errors=scan_for_errors, describe=describe, ranks=ranks, reporter=reporter
        )

    held = [opened(each) for each in wanted]
    keys = [
        [tensors.keys_held(keys_by, encoder=part) for part in parts]
        for tensors, keys_by in zip(held, keys_of, strict=True)
    ]
    for number, part in enumerate(parts):
        missing = [
            _missing(each.captions, tensors, keys=theirs[number], ranks=ranks)
            for each, tensors, theirs in zip(wanted, held, keys, strict=True)
        ]
        if any(missing):
            _encode(wanted, missing, part=part, options=options, ranks=ranks, reporter=reporter)
            release_device_memory()
    for each, theirs in zip(wanted, keys, strict=True):
        download_missing(
            finalize(each.store, ranks=ranks), np.concatenate([NO_KEYS, *theirs]), ranks=ranks, reporter=reporter
        )


def _keys_of(captions: Sequence[str], identity: str) -> Keys:
    return text_keys(captions, part_identity=identity)


def _missing(captions: Sequence[str], tensors: TensorStore, *, keys: Keys, ranks: Ranks) -> list[str]:
    """The captions in this rank's share whose keys the store lacks."""
    share = slice(ranks.rank, None, ranks.world_size)
    mine, rows = captions[share], tensors.missing(keys[share]).nonzero()[0]
    return [mine[row] for row in rows.tolist()]


def _encode(
    wanted: Sequence[CaptionJob],
    missing: Sequence[Sequence[str]],
    *,
    part: TextEncoderSpec,
    options: CacheOptions,
    ranks: Ranks,
    reporter: Reporter,
) -> None:
    """Encode the captions that each store lacks with one encoder, which can be released when this returns."""
    total = sum(map(len, missing))
    with stage(reporter, f"encode captions with {part.name}", total=total, unit="captions") as advance:
        encoder = part.load()
        for each, captions in zip(wanted, missing, strict=True):
            with ShardWriter(
                each.store,
                rank=ranks.rank,
                write_batch_size=each.write_batch_size,
                compress=options.compress_disk_cache,
            ) as writer:
                for first in range(0, len(captions), part.batch_size):
                    batch = captions[first : first + part.batch_size]
                    writer.add(_encoded(batch, encoder=encoder, part=part))
                    advance(len(batch))


def _encoded(captions: Sequence[str], *, encoder: TextEncoder, part: TextEncoderSpec) -> dict[str, dict[str, Tensor]]:
    """The outputs of each caption, by key."""
    outputs = encoder.encode(captions)
    _check(outputs, captions, part=part)
    keys = text_keys(captions, part_identity=part.identity).tolist()
    return {key.decode(): {name: output[row] for name, output in outputs.items()} for row, key in enumerate(keys)}


def _check(outputs: Mapping[str, Tensor], captions: Sequence[str], *, part: TextEncoderSpec) -> None:
    for name, output in outputs.items():
        assert output.dtype == torch.bfloat16 and len(output) == len(captions), (
            f"{part.name} returned {name} of another dtype or length"
        )
        finite = output.flatten(1).isfinite().all(dim=1)
        if not finite.all():
            caption = captions[int(finite.logical_not().nonzero()[0])]
            raise CacheError(
                f"{part.name} encoded {_shown(caption)} to NaN or infinity. "
                "Its weights or its precision do not work on this device: try another precision for it."
            )


def _shown(caption: str) -> str:
    """A caption for messages: shortened, and printable even if it is not UTF-8."""
    short = caption if len(caption) <= CAPTION_SHOWN_CHARACTERS else caption[: CAPTION_SHOWN_CHARACTERS - 1] + "…"
    return "the caption " + repr(short.encode("utf-8", "backslashreplace").decode())


def token_counts(captions: Sequence[str], *, limit: TokenLimit, store: CacheStore) -> NDArray[np.int32]:
    """The number of tokens of each caption [N], with special ones; the tokenizer is loaded only for new captions.

    store: the text cache, which keeps the counts.
    """
    known = FileMetadataCache(store, name=TABLE)
    hashes = text_keys(captions, part_identity=limit.identity).tolist()
    keys = np.frombuffer(bytes.fromhex(b"".join(hashes).decode()), "<u8").reshape(-1, 2)
    rows = known.find(keys)
    unknown = np.flatnonzero(rows == UNKNOWN).tolist()
    if unknown:
        count = limit.load()
        for first in range(0, len(unknown), COUNTED_AT_ONCE):
            few = unknown[first : first + COUNTED_AT_ONCE]
            for row, tokens in zip(few, count([captions[row] for row in few]), strict=True):
                known.add(keys[row], np.array(tokens, COUNT).tobytes())
        known.flush()
        rows = known.find(keys)
    return known.values(rows).block.view(COUNT).astype(np.int32)
