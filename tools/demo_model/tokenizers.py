"""Cut SD3's tokenizers down to a few thousand pieces; the full tables would be larger than the demo model.

`python -m tools.demo_model.tokenizers DATA_FOLDER PIPELINE_FOLDER` writes tokenizer, tokenizer_2 (CLIP) and
tokenizer_3 (T5). The rest still accepts any word: CLIP's pairs of letters fall back to single bytes, T5's pieces to
single letters (a character that T5 does not know is unknown here as well).
"""

import json
import string
import sys
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

from tools.demo_model.data import captions_of, load

SOURCE = Path(__file__).resolve().parents[1] / "helpers" / "models" / "sd3" / "assets"
# Prompts longer than this are cut by CLIP as 77 tokens are in SD3; T5 reads on.
CLIP_LENGTH, T5_LENGTH = 12, 256
COMMON_MERGES, COMMON_PIECES = 1000, 1000
START, END = "<|startoftext|>", "<|endoftext|>"


def words_of(captions: Iterable[str]) -> set[str]:
    """Every word of the captions, small and with a capital."""
    words = {word for caption in captions for word in caption.split()}
    return words | {word.capitalize() for word in words}


def joined_by(word: str, ranks: dict[tuple[str, str], int], letter_of: dict[int, str]) -> set[int]:
    """Which merges byte-pair encoding uses for a word, in CLIP's letters for bytes."""
    parts = [letter_of[byte] for byte in word.encode()]
    parts[-1] += "</w>"
    used: set[int] = set()
    while len(parts) > 1:
        rank, place = min((ranks.get(pair, sys.maxsize), i) for i, pair in enumerate(pairwise(parts)))
        if rank == sys.maxsize:
            break
        used.add(rank)
        parts[place : place + 2] = [parts[place] + parts[place + 1]]
    return used


def clip_letters(vocabulary: dict[str, int]) -> dict[int, str]:
    """The letter by which byte-level encoding writes each byte: printable ones as they are, the others from 256."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in printable}
    others = (byte for byte in range(256) if byte not in letters)
    letters |= {byte: chr(256 + i) for i, byte in enumerate(others)}
    assert set(letters.values()) <= set(vocabulary)
    return letters


def write_clip(folder: Path, words: set[str]) -> None:
    """CLIP's tokenizer with its most common merges and those that the words need to have their usual tokens."""
    vocabulary = json.loads((SOURCE / "tokenizer" / "vocab.json").read_text())
    lines = (SOURCE / "tokenizer" / "merges.txt").read_text().strip().split("\n")[1:]
    merges = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    letter_of = clip_letters(vocabulary)
    kept = set(range(COMMON_MERGES)).union(*(joined_by(word.lower(), ranks, letter_of) for word in words))
    chosen = [merges[rank] for rank in sorted(kept)]
    pieces = [*sorted(vocabulary, key=vocabulary.__getitem__)[:512], *("".join(pair) for pair in chosen), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in chosen)]) + "\n")
    special = {"bos_token": START, "eos_token": END, "pad_token": END, "unk_token": END}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": CLIP_LENGTH, "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def whole_t5() -> Any:
    """SD3's own T5 tokenizer."""
    from transformers import T5Tokenizer

    return T5Tokenizer.from_pretrained(SOURCE / "tokenizer_3")


def write_t5(folder: Path, words: set[str]) -> None:
    """T5's tokenizer with its likeliest pieces, every letter of Western scripts, and the pieces that the words need."""
    whole = whole_t5()
    state = json.loads(whole.backend_tokenizer.to_str())
    scores: list[list[Any]] = state["model"]["vocab"]
    used = {piece for word in words for piece in whole.tokenize(word)}
    letters = {*string.printable.strip(), *map(chr, range(0xA1, 0x180)), "▁"}
    likely = {piece for piece, _ in sorted(scores[3:], key=lambda pair: -pair[1])[:COMMON_PIECES]}
    known = {piece: score for piece, score in scores if not piece.startswith("<extra_id_")}
    kept = [pair for pair in known.items() if pair[0] in used | letters | likely]
    lowest = min(score for _, score in kept) - 5
    kept += [(letter, lowest) for letter in sorted(letters - set(known))]
    state["model"]["vocab"] = [["<pad>", 0.0], ["</s>", 0.0], ["<unk>", 0.0], *map(list, kept)]
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < 3]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False))
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    settings = {"tokenizer_class": "T5Tokenizer", "model_max_length": T5_LENGTH, "extra_ids": 0, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2) + "\n")


def make(data: Path, pipeline: Path) -> None:
    """Write all three tokenizers into a pipeline's folder."""
    words = words_of(caption for image in load(data)[0] for caption in captions_of(image))
    write_clip(pipeline / "tokenizer", words)
    write_clip(pipeline / "tokenizer_2", words)
    write_t5(pipeline / "tokenizer_3", words)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
