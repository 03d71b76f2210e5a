"""Real, small, exact encoders and images, which note what they were asked for."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from helpers.data.types import Catalog
from helpers.models.family import TextEmbedding, TextEncoderSpec, VaeSpec
from helpers.reporting.events import Event, Notice
from helpers.reporting.reporter import Reporter
from helpers.storage.local import LocalSource


@dataclass
class Heard:
    """A listener that keeps everything."""

    events: list[Event] = field(default_factory=list)

    def handle(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None: ...

    @property
    def warnings(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice) and event.level == "warning"]

    def reporter(self) -> Reporter:
        return Reporter([self])


def drawn(seed: str, *shape: int) -> Tensor:
    """Normal numbers in bf16 that are a function of `seed`."""
    number = int.from_bytes(hashlib.blake2b(seed.encode("utf-8", "surrogatepass"), digest_size=7).digest())
    return torch.randn(shape, generator=torch.Generator().manual_seed(number)).bfloat16()


@dataclass
class Words:
    """A text encoder whose outputs are a function of its name and the caption."""

    name: str
    batches: list[tuple[str, ...]] = field(default_factory=list)
    loads: int = 0

    def encode(self, captions: Sequence[str]) -> dict[str, Tensor]:
        self.batches.append(tuple(captions))
        return {
            "hidden": torch.stack([drawn(f"{self.name} {caption}", 5, 8) for caption in captions]),
            "pooled": torch.stack([drawn(f"{self.name} pooled {caption}", 8) for caption in captions]),
        }

    @property
    def captions(self) -> list[str]:
        return [caption for batch in self.batches for caption in batch]

    def part(
        self, *, identity: str | None = None, batch_size: int = 4, earlier: tuple[str, ...] = ()
    ) -> TextEncoderSpec:
        def load() -> Words:
            self.loads += 1
            return self

        return TextEncoderSpec(
            name=self.name,
            identity=identity or self.name,
            batch_size=batch_size,
            bytes_per_caption=2 * (5 * 8 + 8),
            load=load,
            earlier_identities=lambda: earlier,
        )


def assemble(outputs: Sequence[Mapping[str, Tensor]]) -> TextEmbedding:
    return TextEmbedding(torch.cat([one["hidden"] for one in outputs]), torch.cat([one["pooled"] for one in outputs]))


def run_out_on_cuda() -> None:
    raise torch.OutOfMemoryError("out of memory")


def run_out_on_cpu() -> None:
    """PyTorch's own error: a petabyte does not fit."""
    torch.empty(2**50)


@dataclass
class Convolution:
    """A VAE of one seeded convolution, 8 pixels to a latent pixel, 4 channels; `limit` images fit in its memory.

    With more, `run_out_of_memory` raises what the device would.
    """

    limit: int = 1_000_000
    run_out_of_memory: Callable[[], object] = run_out_on_cuda
    factor: float = 1.0
    batches: list[int] = field(default_factory=list)
    loads: int = 0

    def encode(self, pixels: Tensor, *, at_most: int | None = None) -> Tensor:
        if len(pixels) > self.limit or at_most is None or at_most > self.limit:
            self.run_out_of_memory()
        self.batches.append(len(pixels))
        return torch.cat([self.one(image) for image in pixels])

    def one(self, image: Tensor) -> Tensor:
        weight = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
        planes = image.permute(2, 0, 1)[None].float() / 255
        return torch.nn.functional.conv2d(planes, weight, stride=8) * self.factor

    def decode(self, latents: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def encoded(self) -> int:
        return sum(self.batches)

    def part(self, *, identity: str = "vae", parallel_encodes: int = 1, earlier: tuple[str, ...] = ()) -> VaeSpec:
        def load() -> Convolution:
            self.loads += 1
            return self

        return VaeSpec(
            identity=identity,
            shift=0.5,
            scale=2.0,
            channels=4,
            downscale=8,
            parallel_encodes=parallel_encodes,
            load=load,
            earlier_identities=lambda: earlier,
        )


def image(path: Path, *, seed: int = 0, width: int = 32, height: int = 24) -> Path:
    """An image file of random pixels."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def catalog_of(folder: Path, *, edge: int = 0, dataset_id: str = "photos") -> Catalog:
    """The catalog of a folder of images, each trained on whole, or resized to a square of `edge` pixels."""
    from PIL import Image

    source = LocalSource(folder)
    listed = list(source.list())
    sizes = [(edge, edge) if edge else size_of(Image, folder / one.path) for one in listed]
    return Catalog(
        dataset_id=dataset_id,
        source=source,
        repeats=0,
        paths=[one.path for one in listed],
        tags=[one.tag for one in listed],
        size_bytes=np.array([one.size_bytes for one in listed], dtype=np.int64),
        sizes=np.array([size_of(Image, folder / one.path) for one in listed], dtype=np.int32),
        geometries=np.array([(w, h, 0, 0, w, h) for w, h in sizes], dtype=np.int32),
        captions_of=lambda index: (listed[index].path,),
    )


def size_of(library, path: Path) -> tuple[int, int]:
    with library.open(path) as image:
        return image.size
