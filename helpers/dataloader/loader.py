"""From a place in the order to the tensors of a training step, ready before the loop asks for them.

What a batch holds is a function of its position alone: a batch made again, by another thread or in another run, is the
same to the bit.
"""

import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Protocol

import torch
from torch import Tensor

from helpers.config.options.training import ObjectiveOptions
from helpers.data.types import Catalog
from helpers.dataloader.rng import generator, seeded_int, seeded_uniform
from helpers.dataloader.sampler import Sample, SampleOrder
from helpers.dataloader.types import Position, TrainBatch
from helpers.errors import CacheError, UserError
from helpers.models.family import TextEmbedding
from helpers.models.flow_matching import flow_shift, sample_sigma

EMPTY_CAPTION = ""


class LatentLookup(Protocol):
    """A dataset's encoded images."""

    def latents(self, index: int) -> Tensor:
        """The latents of the catalog's image `index` as the model wants them, fp32 [C, h, w] on the CPU."""
        ...


class TextLookup(Protocol):
    """The encoded captions, the empty one among them."""

    def embedding(self, caption: str) -> TextEmbedding:
        """The caption's embedding on the CPU."""
        ...


@dataclass(frozen=True, kw_only=True)
class BatchBuilder:
    """Makes the batches of one rank; catalogs and latents are by dataset id.

    mirrored: the latents of images left for right, of datasets that show both sides, each by an even chance.
    model_shift: that of the model's own scheduler, for `FLOW_SHIFT=model`.
    caption_dropout_probability: the share of samples that get the empty caption.
    tokens: of a caption [encoders, n], where text encoders learn.
    """

    order: SampleOrder
    catalogs: Mapping[str, Catalog]
    latents: Mapping[str, LatentLookup]
    text: TextLookup
    objective: ObjectiveOptions
    model_shift: float
    caption_dropout_probability: float
    seed: int
    rank: int
    mirrored: Mapping[str, LatentLookup] = field(default_factory=dict)
    tokens: Callable[[str], Tensor] | None = None

    def batch(self, position: Position) -> TrainBatch:
        """This rank's share of the batch at `position`; raises CacheError naming an image that can't be read."""
        samples = self.order.batch_of_rank(position, rank=self.rank)
        latents = [self._latents(sample) for sample in samples]
        texts = [self._text(sample) for sample in samples]
        return TrainBatch(
            position=position,
            latents=torch.stack(latents),
            noise=torch.stack([self._noise(sample, like) for sample, like in zip(samples, latents, strict=True)]),
            sigmas=torch.stack([self._sigma(sample) for sample in samples]),
            prompt_embeds=torch.stack([text.prompt_embeds for text in texts]),
            pooled=torch.stack([text.pooled for text in texts]),
            paths=tuple(self._name(sample) for sample in samples),
            dropout_seed=seeded_int(*self._seed("forward pass", samples[0])),
            tokens=torch.stack([self.tokens(self.caption(sample)) for sample in samples]) if self.tokens else None,
            prior_preservation=self.catalogs[samples[0].dataset_id].is_regularisation_data,
        )

    def caption(self, sample: Sample) -> str:
        """The caption that is learned: of several, another one each pass, beginning anywhere; or none, by chance."""
        if seeded_uniform(*self._seed("caption dropout", sample)) < self.caption_dropout_probability:
            return EMPTY_CAPTION
        captions = self.catalogs[sample.dataset_id].captions_of(sample.image)
        first = seeded_int(self.seed, "first caption", sample.dataset_id, sample.image)
        return captions[(first + sample.pass_number) % len(captions)]

    def _latents(self, sample: Sample) -> Tensor:
        sides = self.mirrored if self._is_mirrored(sample) else self.latents
        with self._reading("latents", sample):
            return sides[sample.dataset_id].latents(sample.image)

    def _is_mirrored(self, sample: Sample) -> bool:
        if sample.dataset_id not in self.mirrored:
            return False
        return seeded_uniform(self.seed, "flip", sample.dataset_id, sample.image, sample.pass_number) < 0.5

    def _text(self, sample: Sample) -> TextEmbedding:
        with self._reading("encoded caption", sample):
            return self.text.embedding(self.caption(sample))

    @contextmanager
    def _reading(self, what: str, sample: Sample) -> Iterator[None]:
        """Put the image's name on a cache's error, which knows keys only."""
        try:
            yield
        except (UserError, OSError) as error:
            raise CacheError(f"the {what} of {self._name(sample)} cannot be read: {error}") from error

    def _noise(self, sample: Sample, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=generator(*self._seed("noise", sample)))

    def _sigma(self, sample: Sample) -> Tensor:
        sigma_generator = generator(*self._seed("sigma", sample))
        width, height = self.order.buckets[sample.bucket].size
        shift = flow_shift(self.objective, model_shift=self.model_shift, pixels=width * height)
        return sample_sigma(sigma_generator, objective=self.objective, shift=shift)

    def _name(self, sample: Sample) -> str:
        return f"{sample.dataset_id}: {self.catalogs[sample.dataset_id].paths[sample.image]}"

    def _seed(self, purpose: str, sample: Sample) -> tuple[int, str, int, int, int]:
        """What makes a random choice this sample's own, whichever rank it falls to."""
        return self.seed, purpose, sample.position.epoch, sample.position.batch, sample.slot


def prefetch(
    source: BatchBuilder, start: Position, *, depth: int, pin_memory: bool = False, end: Position | None = None
) -> Generator[TrainBatch, None, None]:
    """The batches from `start` on, up to `end` or for ever, made in a thread that is `depth` ahead at the most.

    An error in the thread is raised here, at the batch it belongs to. Close the generator (or drop it) to stop the
    thread; it is gone when `close` returns. pin_memory: hold the tensors where a CUDA device copies from quickest.
    """
    made: SimpleQueue[TrainBatch | Exception | None] = SimpleQueue()
    room = threading.Semaphore(depth)
    stop = threading.Event()

    def make() -> None:
        position = start
        try:
            while room.acquire() and not stop.is_set():
                if end is not None and position >= end:
                    return made.put(None)
                batch = source.batch(position)
                made.put(_pinned(batch) if pin_memory else batch)
                position = source.order.next_position(position)
        except Exception as error:  # raised again where the batch is waited for
            made.put(error)

    thread = threading.Thread(target=make, name="batches", daemon=True)
    thread.start()
    try:
        while True:
            batch = made.get()
            if batch is None:
                return
            if isinstance(batch, Exception):
                raise batch
            room.release()
            yield batch
    finally:
        stop.set()
        room.release()
        thread.join()


def _pinned(batch: TrainBatch) -> TrainBatch:
    """The batch with its tensors in page-locked memory."""
    tensors = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **{name: tensor.pin_memory() for name, tensor in tensors.items()})
