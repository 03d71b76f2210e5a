"""A batch is a function of its position: the same whoever makes it, and each image with its own words."""

import gc
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from hashlib import blake2b
from typing import Any

import numpy as np
import pytest
import torch

from helpers.config.options.training import ObjectiveOptions
from helpers.data.types import Catalog, Size
from helpers.dataloader.loader import BatchBuilder, prefetch
from helpers.dataloader.sampler import SampleOrder
from helpers.dataloader.types import Position, TrainBatch
from helpers.errors import CacheError
from helpers.models.family import TextEmbedding

TENSORS = ("latents", "noise", "sigmas", "prompt_embeds", "pooled")


class Latents:
    """Latents that hold their image's number; of the broken one, an error."""

    def __init__(self, base: int, height: int, broken: int = -1) -> None:
        self.base, self.height, self.broken = base, height, broken

    def latents(self, index: int) -> torch.Tensor:
        if index == self.broken:
            raise CacheError("the shard 0007.safetensors is damaged")
        return torch.full((16, self.height, 4), float(self.base + index))


class Words:
    """Embeddings that hold the number that ends the caption; of the empty caption, -1."""

    def embedding(self, caption: str) -> TextEmbedding:
        value = float(caption.split()[-1]) if caption else -1.0
        whole = torch.full((2, 3), value, dtype=torch.bfloat16)
        return TextEmbedding(prompt_embeds=whole, pooled=whole[0])


def make_catalog(dataset_id: str, base: int, length: int, captions_each: int = 1) -> Catalog:
    return Catalog(
        dataset_id=dataset_id,
        source=None,  # type: ignore[arg-type] - batches are made from caches alone
        repeats=0,
        paths=[f"{number}.png" for number in range(length)],
        tags=[""] * length,
        size_bytes=np.zeros(length, dtype=np.int64),
        sizes=np.full((length, 2), 32, dtype=np.int32),
        geometries=np.tile(np.array([32, 32, 0, 0, 32, 32], np.int32), (length, 1)),
        captions_of=lambda index: tuple(f"way {way} of {base + index}" for way in range(captions_each)),
    )


def make_source(
    *,
    batch_size: int = 2,
    world_size: int = 1,
    rank: int = 0,
    dropout: float = 0.0,
    captions: int = 1,
    broken: int = -1,
) -> BatchBuilder:
    catalogs = {"one": make_catalog("one", 0, 11, captions), "two": make_catalog("two", 100, 5, captions)}
    buckets = [bucket for catalog in catalogs.values() for bucket in catalog.buckets]
    return BatchBuilder(
        order=SampleOrder(buckets, seed=3, batch_size=batch_size, world_size=world_size),
        catalogs=catalogs,
        latents={"one": Latents(0, 4, broken), "two": Latents(100, 6)},
        text=Words(),
        objective=ObjectiveOptions(flow_shift="model"),
        model_shift=3.0,
        caption_dropout_probability=dropout,
        seed=3,
        rank=rank,
    )


def positions(source: BatchBuilder, count: int) -> list[Position]:
    return [source.order.position_after(number) for number in range(count)]


def assert_same(first: TrainBatch, second: TrainBatch) -> None:
    for name in TENSORS:
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert replace(first, **dict.fromkeys(TENSORS)) == replace(second, **dict.fromkeys(TENSORS))  # type: ignore[arg-type]


def test_a_batch_has_the_promised_shapes_and_each_image_its_own_caption() -> None:
    source = make_source(batch_size=4)
    for position in positions(source, 10):
        batch = source.batch(position)
        height = batch.latents.shape[2]
        assert batch.latents.shape == batch.noise.shape == (4, 16, height, 4)
        assert batch.latents.dtype == batch.noise.dtype == batch.sigmas.dtype == torch.float32
        assert batch.sigmas.shape == (4,) and batch.prompt_embeds.shape == (4, 2, 3) and batch.pooled.shape == (4, 3)
        assert batch.prompt_embeds.dtype == batch.pooled.dtype == torch.bfloat16
        for sample, path in enumerate(batch.paths):
            dataset, name = path.split(": ")
            expected = int(name.removesuffix(".png")) + (0 if dataset == "one" else 100)
            assert batch.latents[sample].unique().tolist() == [expected]
            assert batch.prompt_embeds[sample].unique().tolist() == [expected]
            assert batch.pooled[sample].unique().tolist() == [expected]


def test_a_batch_is_a_function_of_its_position() -> None:
    forwards = make_source(dropout=0.5, captions=3)
    backwards = make_source(dropout=0.5, captions=3)
    first = {position: forwards.batch(position) for position in positions(forwards, 20)}
    torch.manual_seed(99)
    for position, batch in reversed(first.items()):
        assert_same(batch, backwards.batch(position))


def test_two_ranks_make_the_halves_of_one_ranks_double_batch() -> None:
    whole = make_source(batch_size=4, dropout=0.5)
    halves = [make_source(batch_size=2, world_size=2, rank=rank, dropout=0.5) for rank in range(2)]
    for position in positions(whole, 12):
        batch, parts = whole.batch(position), [half.batch(position) for half in halves]
        for name in TENSORS:
            assert torch.equal(getattr(batch, name), torch.cat([getattr(part, name) for part in parts])), name
        assert batch.paths == parts[0].paths + parts[1].paths
        assert parts[0].dropout_seed != parts[1].dropout_seed


def test_noise_and_noise_levels_differ_from_sample_to_sample() -> None:
    source = make_source(batch_size=4)
    batches = [source.batch(position) for position in positions(source, 50)]
    sigmas = torch.cat([batch.sigmas for batch in batches])
    assert len(sigmas.unique()) == 200
    noise = torch.cat([batch.noise[:, :, :4].flatten(1) for batch in batches])
    assert noise.mean().abs() < 0.02 and abs(noise.std() - 1) < 0.02
    assert len(noise[:, 0].unique()) == 200
    assert len({batch.dropout_seed for batch in batches}) == 50


def test_each_image_s_noise_level_is_shifted_by_its_own_resolution() -> None:
    plain, shifted = replace(make_source(), objective=ObjectiveOptions()), make_source()
    one, two = shifted.order.buckets
    larger = [replace(one, size=Size(512, 512)), replace(two, size=Size(1024, 1024))]
    shifted = replace(
        shifted,
        order=SampleOrder(larger, seed=3, batch_size=2, world_size=1),
        objective=ObjectiveOptions(flow_shift="auto"),
    )
    met = set()
    for position in positions(plain, 20):
        before, batch = plain.batch(position), shifted.batch(position)
        shift = {"one": 1.5, "two": 3.0}[batch.paths[0].partition(":")[0]]
        torch.testing.assert_close(batch.sigmas, shift * before.sigmas / (1 + (shift - 1) * before.sigmas))
        met.add(shift)
    assert met == {1.5, 3.0}


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_the_asked_share_of_captions_is_dropped(probability: float) -> None:
    source = make_source(batch_size=8, dropout=probability)
    dropped = torch.cat([source.batch(position).pooled[:, 0] == -1 for position in positions(source, 250)])
    assert dropped.float().mean().item() == pytest.approx(probability, abs=0.03)


def test_every_one_of_several_captions_is_learnt_equally_often() -> None:
    source = make_source(batch_size=1, captions=3)
    seen: dict[tuple[str, int], list[str]] = {}
    for position in positions(source, source.order.batches_before(3)):
        (sample,) = source.order.batch_at(position)
        seen.setdefault((sample.dataset_id, sample.image), []).append(source.caption(sample))
    assert all(len(set(captions)) == 3 for captions in seen.values())
    assert len({captions[0].split()[1] for captions in seen.values()}) == 3, "images begin with different captions"


def batch_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "batches"]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not batch_threads()


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetched_batches_are_the_source_s_in_order_from_any_start(depth: int) -> None:
    source = make_source()
    expected = positions(source, 30)[7:]
    with closing(prefetch(source, expected[0], depth=depth)) as batches:
        for position in expected:
            assert_same(next(batches), source.batch(position))


def test_prefetching_stays_within_its_depth() -> None:
    made: list[Position] = []

    class Counting(BatchBuilder):
        def batch(self, position: Position) -> TrainBatch:
            made.append(position)
            return super().batch(position)

    source = make_source()
    counting = Counting(**{name: getattr(source, name) for name in BatchBuilder.__dataclass_fields__})
    with closing(prefetch(counting, Position(), depth=2)) as batches:
        next(batches)
        deadline = time.monotonic() + 5
        while len(made) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert len(made) == 3


def test_an_unreadable_image_is_named_where_its_batch_is_waited_for() -> None:
    source = make_source(broken=6)
    batches = prefetch(source, Position(), depth=4)
    good = 0
    with pytest.raises(
        CacheError, match=r"latents of one: 6\.png cannot be read: the shard 0007\.safetensors is damaged"
    ):
        for _ in range(30):
            next(batches)
            good += 1
    of_broken = [number for number, position in enumerate(positions(source, 30)) if has_image(source, position, 6)]
    assert good == of_broken[0]


def has_image(source: BatchBuilder, position: Position, image: int) -> bool:
    return any((s.dataset_id, s.image) == ("one", image) for s in source.order.batch_at(position))


def test_a_mistake_of_ours_in_the_thread_is_raised_as_it_is() -> None:
    source = replace(make_source(), latents={})
    with pytest.raises(KeyError):
        next(prefetch(source, Position(), depth=1))


def test_dropping_the_batches_stops_the_thread() -> None:
    batches: Any = prefetch(make_source(), Position(), depth=2)
    next(batches)
    assert batch_threads()
    del batches
    gc.collect()
    assert not batch_threads()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory is a CUDA device's")
def test_batches_for_a_device_are_page_locked_and_otherwise_the_same() -> None:
    source = make_source()
    with closing(prefetch(source, Position(), depth=1, pin_memory=True)) as batches:
        batch = next(batches)
    assert all(getattr(batch, name).is_pinned() for name in TENSORS)
    assert_same(batch, source.batch(Position()))


def test_both_sides_of_a_image_come_by_an_even_chance_for_each_pass() -> None:
    plain = make_source()
    source = replace(plain, mirrored={"one": Latents(1000, 4)})
    sides: dict[str, list[bool]] = {}
    for position in positions(source, 300):
        batch = source.batch(position)
        assert_same(batch, source.batch(position))
        for path, before, after in zip(batch.paths, plain.batch(position).latents, batch.latents, strict=True):
            mirrored = bool(after.max() >= 1000)
            assert mirrored or torch.equal(before, after)
            sides.setdefault(path, []).append(mirrored)
    assert not any(any(seen) for path, seen in sides.items() if path.startswith("two"))
    seen = [mirrored for path, each in sides.items() if path.startswith("one") for mirrored in each]
    assert 0.42 < sum(seen) / len(seen) < 0.58
    assert all(0 < sum(each) < len(each) for path, each in sides.items() if path.startswith("one"))


def test_batches_come_up_to_an_end() -> None:
    source = make_source()
    end = source.order.position_after(7)
    batches = list(prefetch(source, source.order.position_after(2), depth=2, end=end))
    assert [batch.position for batch in batches] == positions(source, 7)[2:]


def test_what_is_random_of_a_sample_stays_what_it_is_so_that_checkpoints_resume_to_the_bit() -> None:
    """Each choice is seeded by the first 8 bytes of BLAKE2b of its purpose; sigmas are logit-normal, shifted by 3."""
    plain = make_source(batch_size=4, dropout=0.5, captions=3)
    source = replace(plain, mirrored={"one": Latents(1000, 4), "two": Latents(1100, 6)})

    def seed(purpose: str, *parts: int | str) -> int:
        return int.from_bytes(blake2b(repr((3, purpose, *parts)).encode(), digest_size=8).digest(), "little")

    def draws(purpose: str, *parts: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed(purpose, *parts))

    for position in positions(source, 12):
        batch, at = source.batch(position), (position.epoch, position.batch)
        assert batch.dropout_seed == seed("forward pass", *at, 0)
        for slot, sample in enumerate(source.order.batch_at(position)):
            assert torch.equal(
                batch.noise[slot], torch.randn(batch.noise[slot].shape, generator=draws("noise", *at, slot))
            )
            level = torch.sigmoid(torch.randn((), generator=draws("sigma", *at, slot)))
            torch.testing.assert_close(batch.sigmas[slot], 3 * level / (1 + 2 * level))
            image = (sample.dataset_id, sample.image)
            way = (seed("first caption", *image) + sample.pass_number) % 3
            caption = source.catalogs[sample.dataset_id].captions_of(sample.image)[way]
            is_dropped = seed("caption dropout", *at, slot) < 2**63
            assert source.caption(sample) == ("" if is_dropped else caption)
            is_mirrored = seed("flip", *image, sample.pass_number) < 2**63
            assert (batch.latents[slot].max() >= 1000) == is_mirrored


def test_of_two_captions_an_image_has_the_other_one_each_pass() -> None:
    source = make_source(batch_size=1, captions=2)
    seen: dict[tuple[str, int], list[str]] = {}
    for position in positions(source, source.order.batches_before(4)):
        (sample,) = source.order.batch_at(position)
        seen.setdefault((sample.dataset_id, sample.image), []).append(source.caption(sample))
    assert len(seen) == 16
    for captions in seen.values():
        assert captions[0] == captions[2] != captions[1] == captions[3]
