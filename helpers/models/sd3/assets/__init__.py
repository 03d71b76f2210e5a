"""SD3's tokenizers and scheduler, the same for every SD3: used if a base model has none."""

from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from helpers.models.formats.fingerprint import files_fingerprint

ASSETS = Path(__file__).resolve().parent
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
"""The tokenizers of CLIP-L, CLIP-G and T5."""

SMALL_PARTS = (*TOKENIZERS, "scheduler")
CLIP_VOCABULARY, CLIP_TOKENS, T5_VOCABULARY = 49408, 77, 32100

REDUNDANT = ("tokenizer.json", "652ffdfc379606bad8edfb653f92dcf28e2e5dbf1cdfe50d685d29b2cad12dd6")
"""A file next to T5's spiece.model on the hub, and its SHA-256: it gives the same ids, and is not included here."""


def tokenizer_identity(folder: Path) -> str:
    """A hash of a tokenizer's files, the same for SD3's tokenizers from the hub and for those included here."""
    return files_fingerprint(_relevant_files(folder))


def _relevant_files(folder: Path) -> Iterator[Path]:
    name, digest = REDUNDANT
    for file in folder.iterdir():
        if not file.is_file():
            continue
        is_redundant_name = file.name == name and (folder / "spiece.model").is_file()
        if not (is_redundant_name and sha256(file.read_bytes()).hexdigest() == digest):
            yield file
