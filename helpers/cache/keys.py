"""Keys of cached entries: a hash of everything that an entry's values depend on, and of nothing else."""

import struct
from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from helpers.data.types import Catalog, ImageRecord
from helpers.models.family import TextEncoderSpec, VaeSpec

# Increase it when the stored values change for the same settings, so that old entries are no longer found.
ENCODER_VERSION = 1

KEY_DTYPE = np.dtype("S32")
Keys = NDArray[np.bytes_]


def identities(encoder: TextEncoderSpec | VaeSpec) -> Iterator[str]:
    """The identities that an encoder's entries may be stored under: today's first, then those of earlier versions."""
    yield encoder.identity
    yield from encoder.earlier_identities()


def latent_key(record: ImageRecord, *, vae_identity: str) -> str:
    """The key (32 hex digits) of an image's latent, from the file's identity, its geometry and the VAE's identity."""
    geometry = (*record.geometry.resize, *record.geometry.crop)
    base = _latent_base(record.dataset_id, vae_identity, mirrored=record.mirrored)
    return _latent_digest(base, record.path, record.tag, (record.size_bytes, *geometry))


def latent_keys(catalog: Catalog, *, vae_identity: str) -> Keys:
    """The `latent_key` of each of a catalog's images, [N]."""
    base = _latent_base(catalog.dataset_id, vae_identity, mirrored=catalog.mirrored)
    columns = zip(catalog.paths, catalog.tags, catalog.size_bytes.tolist(), catalog.geometries.tolist(), strict=True)
    digests = [_latent_digest(base, path, tag, (size, *geometry)) for path, tag, size, geometry in columns]
    return np.array(digests, dtype=KEY_DTYPE)


def text_key(caption: str, *, part_identity: str) -> str:
    """The key (32 hex digits) of one text encoder's outputs for a caption, exactly as it is used in training."""
    hasher = _text_base(part_identity)
    hasher.update(_framed(caption))
    return hasher.hexdigest()


def text_keys(captions: Sequence[str], *, part_identity: str) -> Keys:
    """The `text_key` of each of many captions, [N]."""
    base = _text_base(part_identity)
    digests = []
    for caption in captions:
        hasher = base.copy()
        hasher.update(_framed(caption))
        digests.append(hasher.hexdigest())
    return np.array(digests, dtype=KEY_DTYPE)


def _latent_base(dataset_id: str, vae_identity: str, *, mirrored: bool) -> blake2b:
    return _hasher("mirrored latent" if mirrored else "latent", vae_identity, dataset_id)


def _text_base(part_identity: str) -> blake2b:
    return _hasher("text", part_identity)


def _hasher(*fields: str) -> blake2b:
    return blake2b(ENCODER_VERSION.to_bytes(4, "little") + b"".join(map(_framed, fields)), digest_size=16)


def _latent_digest(base: blake2b, path: str, tag: str, numbers: tuple[int, ...]) -> str:
    hasher = base.copy()
    hasher.update(_framed(path) + _framed(tag) + struct.pack("<7q", *numbers))
    return hasher.hexdigest()


def _framed(text: str) -> bytes:
    """The text with its length in front, so that no two lists of texts give the same bytes.

    Lone surrogates, by which Python represents file names that are not UTF-8, are kept.
    """
    content = text.encode("utf-8", "surrogatepass")
    return len(content).to_bytes(8, "little") + content
