"""Captions become what diffusers' own pipeline makes of them, whatever company they are encoded in."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.config.options.model import PrecisionOptions, TextOptions
from helpers.models.family import ModelComponents, TextEmbedding, TextEncoderSpec
from helpers.models.sd3.assets import tokenizer_identity
from helpers.models.sd3.text_encoders import NAMES, assemble_text, text_parts
from helpers.models.sd3.weights.component_files import part_identity

CAPTIONS = ["a red fox in the snow", "", "Two GREEN apples, painted; on wood — no. 7", "word " * 120]


@pytest.fixture(scope="module")
def encoders(
    parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device
) -> tuple[TextEncoderSpec, ...]:
    return text_parts(parts, TextOptions(), full_precision, cpu)


def embed(encoders: Sequence[TextEncoderSpec], captions: Sequence[str]) -> list[TextEmbedding]:
    outputs = [part.load().encode(captions) for part in encoders]
    return [
        assemble_text([{name: rows[number] for name, rows in output.items()} for output in outputs])
        for number in range(len(captions))
    ]


@pytest.mark.parametrize("length", [77, 20])
def test_the_conditioning_is_that_of_diffusers_pipeline(
    parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device, diffusers_pipeline: Any, length: int
) -> None:
    ours = embed(text_parts(parts, TextOptions(tokenizer_max_length=length), full_precision, cpu), CAPTIONS)
    with torch.no_grad():
        prompt_embeds, _, pooled, _ = diffusers_pipeline.encode_prompt(
            CAPTIONS, None, None, do_classifier_free_guidance=False, max_sequence_length=length
        )
    for number, embedding in enumerate(ours):
        assert torch.equal(embedding.prompt_embeds, prompt_embeds[number].bfloat16())
        assert torch.equal(embedding.pooled, pooled[number].bfloat16())


def test_a_caption_s_numbers_do_not_depend_on_its_company(encoders: tuple[TextEncoderSpec, ...]) -> None:
    company = [f"image number {number}" for number in range(encoders[0].batch_size - 1)]
    for part in encoders:
        encoder = part.load()
        alone = encoder.encode(["a red fox"])
        first = encoder.encode(["a red fox", *company])
        last = encoder.encode([*company, "a red fox"])
        for name, rows in alone.items():
            assert rows.shape[0] == 1
            assert torch.equal(rows[0], first[name][0])
            assert torch.equal(rows[0], last[name][-1])


def test_masking_zeroes_what_t5_says_of_padding_and_nothing_else(
    parts: ModelComponents, full_precision: PrecisionOptions, cpu: torch.device, encoders: tuple[TextEncoderSpec, ...]
) -> None:
    masked = text_parts(parts, TextOptions(sd3_t5_mask_behaviour="mask"), full_precision, cpu)
    with_padding, without = encoders[2].load(), masked[2].load()
    tokens = count(encoders[2], "a red fox")
    before = with_padding.encode(["a red fox"])["hidden"][0]
    after = without.encode(["a red fox"])["hidden"][0]
    assert torch.equal(after[:tokens], before[:tokens])
    assert after[tokens:].count_nonzero() == 0
    assert before[tokens:].count_nonzero() > 0


def test_tokens_are_counted_before_the_cut(encoders: tuple[TextEncoderSpec, ...]) -> None:
    assert [count(encoders[0], caption) for caption in ("a fox", "word " * 120)] == [4, 122]
    assert count(encoders[2], "word " * 120) > 77
    limits = [(part.limit.name, part.limit.tokens) for part in encoders if part.limit]
    assert limits == [("CLIP", 77), ("T5", 77)], "both CLIPs cut alike"


def count(part: TextEncoderSpec, caption: str) -> int:
    assert part.limit is not None
    return part.limit.load()([caption])[0]


def test_a_caption_s_bytes_are_known_before_it_is_encoded(encoders: tuple[TextEncoderSpec, ...]) -> None:
    for part in encoders:
        outputs = part.load().encode(["a fox"])
        assert part.bytes_per_caption == sum(tensor[0].nbytes for tensor in outputs.values())


def identities(parts: ModelComponents, precision: PrecisionOptions, **options: Any) -> list[str]:
    return [part.identity for part in text_parts(parts, TextOptions(**options), precision, torch.device("cpu"))]


def test_what_changes_the_numbers_changes_the_identity_of_its_encoder_only(
    parts: ModelComponents, full_precision: PrecisionOptions
) -> None:
    base = identities(parts, full_precision)
    assert len(set(base)) == 3
    assert identities(parts, full_precision) == base
    for options in ({"tokenizer_max_length": 128}, {"sd3_t5_mask_behaviour": "mask"}):
        changed = identities(parts, full_precision, **options)
        assert changed[:2] == base[:2]
        assert changed[2] != base[2]
    for number in (1, 2, 3):
        level = PrecisionOptions(mixed_precision="no", **{f"text_encoder_{number}_precision": "int8-quanto"})
        changed = identities(parts, level)
        assert [a != b for a, b in zip(changed, base, strict=True)] == [place == number for place in (1, 2, 3)]
    assert not set(identities(parts, PrecisionOptions(mixed_precision="bf16"))) & set(base)


def test_another_vocabulary_is_another_identity(
    parts: ModelComponents, full_precision: PrecisionOptions, tmp_path: Path
) -> None:
    for file in parts.tokenizers[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes() + (b"\n" if file.name == "merges.txt" else b""))
    other = replace(parts, tokenizers=(tmp_path, *parts.tokenizers[1:]))
    changed, base = identities(other, full_precision), identities(parts, full_precision)
    assert [a != b for a, b in zip(changed, base, strict=True)] == [True, False, False]


@pytest.mark.parametrize("level", ["int8-quanto", "int4-quanto", "int2-quanto", "fp8-quanto"])
def test_quantized_encoders_say_nearly_the_same(
    parts: ModelComponents, cpu: torch.device, encoders: tuple[TextEncoderSpec, ...], level: str
) -> None:
    rough = text_parts(parts, TextOptions(), PrecisionOptions(mixed_precision="no", base_model_precision=level), cpu)
    ours, exact = embed(rough, ["a red fox"])[0], embed(encoders, ["a red fox"])[0]
    assert not torch.equal(ours.prompt_embeds, exact.prompt_embeds)
    likeness = torch.cosine_similarity(
        ours.prompt_embeds.float().flatten(), exact.prompt_embeds.float().flatten(), dim=0
    )
    assert likeness > {"int2-quanto": 0.7, "int4-quanto": 0.97}.get(level, 0.999)


def test_identities_stay_what_they_are_so_that_caches_stay(
    parts: ModelComponents, full_precision: PrecisionOptions, encoders: tuple[TextEncoderSpec, ...]
) -> None:
    """The version that caches were written by, and all that an encoder's numbers depend on, each behind its length."""
    readings = ("", "", "length 77, mask False")
    places = zip(NAMES, parts.text_encoders, parts.tokenizers, readings, encoders, strict=True)
    for name, folder, tokenizer, reading, encoder in places:
        weights, words = part_identity(folder, parts.weights_variant), tokenizer_identity(tokenizer)
        facts = ("1", name, weights, words, "no_change", "torch.float32", reading)
        framed = "".join(f"{len(fact)}:{fact};" for fact in facts).encode()
        assert encoder.identity == blake2b(framed, digest_size=16).hexdigest(), name
