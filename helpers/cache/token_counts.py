"""How long captions are in tokens, remembered beside their embeddings, so that a cached start tells it, too."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from helpers.cache.keys import text_keys
from helpers.data.catalog.known_files import UNKNOWN, FileMetadataCache
from helpers.models.family import TokenLimit
from helpers.storage.protocols import CacheStore

TABLE = "tokens-1"
COUNT = np.dtype("<i4")
COUNTED_AT_ONCE = 4096


def token_counts(captions: Sequence[str], *, limit: TokenLimit, store: CacheStore) -> NDArray[np.int32]:
    """The tokens of each caption [N], special ones included; the tokenizer is loaded for captions not counted before.

    store: the text cache.
    """
    remembered = FileMetadataCache(store, name=TABLE)
    hashes = text_keys(captions, part_identity=limit.identity).tolist()
    keys = np.frombuffer(bytes.fromhex(b"".join(hashes).decode()), "<u8").reshape(-1, 2)
    rows = remembered.find(keys)
    unknown = np.flatnonzero(rows == UNKNOWN).tolist()
    if unknown:
        count = limit.load()
        for first in range(0, len(unknown), COUNTED_AT_ONCE):
            few = unknown[first : first + COUNTED_AT_ONCE]
            for row, tokens in zip(few, count([captions[row] for row in few]), strict=True):
                remembered.add(keys[row], np.array(tokens, COUNT).tobytes())
        remembered.flush()
        rows = remembered.find(keys)
    return remembered.values(rows).block.view(COUNT).astype(np.int32)
