"""How much faster captions are encoded in batches than one at a time.

`python -m benchmarks.text_encoding [--captions 512] [--size tiny|demo|bench] [--repeats 3]`. One at a time is what a
plain loop does: every caption through tokenizer and encoder, padded to 77 tokens, one file each. Ours is
`fill_text_cache`, files and keys included. Loading the encoders is left out for both.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from helpers.cache.text import CaptionJob, fill_text_cache
from helpers.config.options.data import CacheOptions
from helpers.config.options.model import ModelOptions, PrecisionOptions, TextOptions
from helpers.models.family import TextEncoderSpec
from helpers.models.sd3.text_encoders import text_parts
from helpers.models.sd3.tiny import make_tiny_pipeline
from helpers.models.sd3.weights.components import locate
from helpers.ranks import SingleProcess
from helpers.reporting.reporter import Reporter
from helpers.storage.local import LocalCache

WORDS = ("red", "green", "small", "old", "happy", "cat", "dog", "tree", "house", "boat", "river", "night", "with", "of")


def captions(count: int) -> list[str]:
    """Different captions of 3 to 12 words."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for number in range(count):
        length = int(torch.randint(2, 12, (), generator=generator))
        picks = torch.randint(len(WORDS), (length,), generator=generator).tolist()
        made.append(" ".join(WORDS[pick] for pick in picks) + f" {number}")
    return made


def loaded(part: TextEncoderSpec) -> TextEncoderSpec:
    """The part with its encoder loaded and warmed up."""
    encoder = part.load()
    encoder.encode(["warm"])
    return replace(part, load=lambda: encoder)


def one_at_a_time(texts: Sequence[str], parts: Sequence[TextEncoderSpec], folder: Path) -> None:
    """Every caption by itself, by the same models and tokenizers, one file each."""
    for part in parts:
        encoder: Any = part.load()
        length = getattr(encoder, "_length", encoder._tokenizer.model_max_length)
        with torch.no_grad():
            for number, text in enumerate(texts):
                ids = encoder._tokenizer(
                    [text], padding="max_length", max_length=length, truncation=True, return_tensors="pt"
                ).input_ids
                if part.name == "t5":
                    outputs = {"hidden": encoder._model(ids).last_hidden_state.bfloat16()}
                else:
                    output = encoder._model(ids, output_hidden_states=True)
                    outputs = {"hidden": output.hidden_states[-2].bfloat16(), "pooled": output.text_embeds.bfloat16()}
                torch.save(outputs, folder / f"{part.name}-{number}.pt")


def ours(texts: Sequence[str], parts: Sequence[TextEncoderSpec], folder: Path) -> None:
    fill_text_cache(
        [CaptionJob(captions=texts, store=LocalCache(folder), write_batch_size=128)],
        parts=parts,
        options=CacheOptions(),
        ranks=SingleProcess(),
        reporter=Reporter(),
    )


def contest(texts: Sequence[str], part: TextEncoderSpec, root: Path, *, repeats: int) -> tuple[float, float]:
    """The best seconds of one at a time and of ours, for one encoder."""
    seconds: dict[Any, list[float]] = {one_at_a_time: [], ours: []}
    for number in range(repeats):
        for contestant, times in seconds.items():
            folder = root / f"{part.name}-{contestant.__name__}-{number}"
            folder.mkdir()
            started = time.perf_counter()
            contestant(texts, [part], folder)
            times.append(time.perf_counter() - started)
    return min(seconds[one_at_a_time]), min(seconds[ours])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=512)
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    texts = captions(arguments.captions)
    with tempfile.TemporaryDirectory() as work:
        root = Path(work)
        pipeline = make_tiny_pipeline(root / "pipeline", size=arguments.size)
        located = locate(ModelOptions(pretrained_model_name_or_path=str(pipeline)))
        precision = PrecisionOptions(mixed_precision="no")
        parts = [loaded(part) for part in text_parts(located, TextOptions(), precision, torch.device("cpu"))]
        print(f"{len(texts)} captions, `{arguments.size}` encoders, {torch.get_num_threads()} cores")
        print(f"{'encoder':10}{'one by one /s':>15}{'batches /s':>12}{'ratio':>8}")
        rows = {part.name: contest(texts, part, root, repeats=arguments.repeats) for part in parts}
    rows["all"] = (sum(slow for slow, _ in rows.values()), sum(fast for _, fast in rows.values()))
    for name, (slow, fast) in rows.items():
        print(f"{name:10}{len(texts) / slow:15.0f}{len(texts) / fast:12.0f}{slow / fast:8.2f}")


if __name__ == "__main__":
    main()
