"""What a cached tensor depends on, as a hash of a model's files, cheap enough to compute at every start."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HASH_BYTES = 16
WHOLE_BELOW_BYTES = 32 << 20
SAMPLES, SAMPLE_BYTES = 64, 64 << 10


def fingerprint(*facts: str) -> str:
    """A hash, 32 hex digits, of words in their order."""
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    for fact in facts:
        digest.update(f"{len(fact)}:{fact};".encode())
    return digest.hexdigest()


def config_fingerprint(config: dict[str, Any]) -> str:
    """The hash of what a model's config.json says of the model; who saved it, where and when is left out."""
    said = {key: value for key, value in config.items() if not key.startswith("_") and key != "transformers_version"}
    return fingerprint(json.dumps(said, sort_keys=True))


def files_fingerprint(files: Iterable[Path]) -> str:
    """The hash of files' names, sizes and content; neither their folder nor their dates count.

    Of a file over 32 MiB the first and last 64 KiB (safetensors' header is the first) and 62 pieces spread evenly
    between them are read: training moves all of a model's weights, so any piece would tell.
    """
    return fingerprint(*(fact for file in sorted(files, key=lambda file: file.name) for fact in _facts(file)))


def file_fingerprint(file: Path) -> str:
    """As `files_fingerprint`, of one file by its content alone."""
    return fingerprint(*_facts(file)[1:])


def _facts(file: Path) -> tuple[str, str, str]:
    size = file.stat().st_size
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    with file.open("rb") as stream:
        if size <= WHOLE_BELOW_BYTES:
            digest.update(stream.read())
        else:
            for number in range(SAMPLES):
                stream.seek(number * (size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(stream.read(SAMPLE_BYTES))
    return file.name, str(size), digest.hexdigest()
