"""What a cached tensor depends on, as a hash of a model's files, cheap enough to compute at every start."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

HASH_BYTES = 16
WHOLE_BELOW_BYTES = 32 << 20
SAMPLES, SAMPLE_BYTES = 64, 64 << 10
TENSOR_SAMPLE_BYTES = 16 << 10


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


def tensors_fingerprint(file: Path, names: Mapping[str, str]) -> str:
    """The hash of some tensors of a safetensors file, `names` to hash them by; neither where they lie in it counts.

    Of more than 32 MiB in all, the first and last 16 KiB of each tensor are read.
    """
    digest = hashlib.blake2b(digest_size=HASH_BYTES)
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        spans = {name: header[name]["data_offsets"] for name in names}
        is_small = sum(end - start for start, end in spans.values()) <= WHOLE_BELOW_BYTES
        for name in sorted(names, key=names.__getitem__):
            start, end = (8 + length + offset for offset in spans[name])
            digest.update(f"{names[name]} {header[name]['dtype']} {header[name]['shape']};".encode())
            at_once = end - start if is_small else min(TENSOR_SAMPLE_BYTES, end - start)
            for place in (start,) if is_small else (start, end - at_once):
                stream.seek(place)
                digest.update(stream.read(at_once))
    return digest.hexdigest()


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
