"""Each image is encoded once, as itself, whatever happens around it."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.cache.encode import read_pixels
from helpers.cache.latents import LatentCache, fill_latent_cache
from helpers.data.types import Catalog, Rejected
from helpers.errors import CacheError
from helpers.ranks import SingleProcess
from helpers.reporting.events import StageAdvanced
from helpers.storage.local import LocalCache, LocalSource
from helpers.storage.protocols import SIZE_UNKNOWN
from tests.unit.cache.encoders import Convolution, Heard, catalog_of, image, run_out_on_cpu, run_out_on_cuda

ROOT = Path(__file__).parents[3]


def fill(store: LocalCache, catalog: Catalog, vae: Convolution, **changes) -> tuple[tuple[Rejected, ...], Heard]:
    heard = Heard()
    arguments = {
        "part": vae.part(),
        "store": store,
        "vae_batch_size": 4,
        "write_batch_size": 8,
        "workers": 2,
        "ranks": SingleProcess(),
        "reporter": heard.reporter(),
    }
    return fill_latent_cache(catalog, **(arguments | changes)), heard


def right(store: LocalCache, catalog: Catalog) -> bool:
    """Whether every image's cached latents are its own."""
    cache = LatentCache(store, catalog=catalog, part=Convolution().part())
    return all(torch.equal(cache.latents(index), expected(catalog, index)) for index in range(len(catalog)))


def expected(catalog: Catalog, index: int) -> torch.Tensor:
    pixels = read_pixels(catalog, index)
    assert not isinstance(pixels, Rejected)
    return (Convolution().one(torch.tensor(pixels))[0].half().float() - 0.5) * 2.0


@pytest.fixture
def store(tmp_path: Path) -> LocalCache:
    return LocalCache(tmp_path / "vae")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten images of two sizes."""
    for number in range(10):
        image(tmp_path / "photos" / f"{number}.png", seed=number, width=32 + 8 * (number % 2))
    return tmp_path / "photos"


@pytest.mark.parametrize("parallel", [1, 3])
def test_every_image_gets_its_own_latents_in_batches_of_one_size(
    store: LocalCache, photos: Path, parallel: int
) -> None:
    vae, threads = Convolution(), torch.get_num_threads()
    rejected, heard = fill(store, catalog_of(photos), vae, part=vae.part(parallel_encodes=parallel))
    assert rejected == ()
    assert sorted(vae.batches) == [1, 1, 4, 4]
    assert right(store, catalog_of(photos))
    assert sum(event.count for event in heard.events if isinstance(event, StageAdvanced)) == 10
    assert torch.get_num_threads() == threads


def test_adding_a_image_encodes_one_and_a_full_cache_loads_nothing(store: LocalCache, photos: Path) -> None:
    fill(store, catalog_of(photos), Convolution())
    vae = Convolution()
    fill(store, catalog_of(photos), vae)
    assert vae.loads == 0
    image(photos / "3a.png", seed=99)
    fill(store, catalog_of(photos), vae)
    assert vae.encoded == 1
    assert right(store, catalog_of(photos))


def test_a_new_size_or_vae_encodes_again_and_going_back_encodes_nothing(store: LocalCache, photos: Path) -> None:
    fill(store, catalog_of(photos), Convolution())
    for change in ({"catalog": catalog_of(photos, edge=24)}, {"part": Convolution().part(identity="another")}):
        vae = Convolution()
        part = vae.part(identity=change["part"].identity) if "part" in change else vae.part()
        fill(store, change.get("catalog", catalog_of(photos)), vae, part=part)
        assert vae.encoded == 10
    vae = Convolution()
    fill(store, catalog_of(photos), vae)
    assert vae.loads == 0
    assert right(store, catalog_of(photos)) and right(store, catalog_of(photos, edge=24))


def test_equal_names_keep_their_own_latents(store: LocalCache, tmp_path: Path) -> None:
    names = ["a/1.png", "b/1.png", "b/1.jpg", "b/1.webp", "1.png"]
    for seed, name in enumerate(names):
        image(tmp_path / "photos" / name, seed=seed)
    fill(store, catalog_of(tmp_path / "photos"), Convolution())
    assert right(store, catalog_of(tmp_path / "photos"))
    cache = LatentCache(store, catalog=catalog_of(tmp_path / "photos"), part=Convolution().part())
    assert len({tuple(cache.latents(index).flatten().tolist()) for index in range(5)}) == 5


def test_unreadable_images_are_named_and_the_others_go_on(store: LocalCache, photos: Path) -> None:
    catalog = catalog_of(photos)
    content = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(content[:100] + bytes(len(content) - 100))
    (photos / "2.png").unlink()
    image(photos / "3.png", seed=50, width=64)
    rejected, _ = fill(store, catalog, Convolution())
    reasons = {one.path: one.reason for one in rejected}
    assert set(reasons) == {"1.png", "2.png", "3.png"}
    assert "No such file" in reasons["2.png"] and "changed" in reasons["3.png"]
    cache = LatentCache(store, catalog=catalog, part=Convolution().part())
    assert all(torch.equal(cache.latents(index), expected(catalog, index)) for index in (0, 4, 5, 6, 7, 8, 9))
    with pytest.raises(CacheError, match=r"2\.png"):
        cache.latents(2)


@pytest.mark.parametrize("run_out", [run_out_on_cuda, run_out_on_cpu])
def test_too_little_memory_halves_the_batch_and_says_so(
    store: LocalCache, photos: Path, run_out: Callable[[], object]
) -> None:
    vae = Convolution(limit=2, run_out_of_memory=run_out)
    _, heard = fill(store, catalog_of(photos), vae)
    assert max(vae.batches) == 2 and vae.encoded == 10
    assert any("not enough memory" in text for text in heard.warnings)
    assert right(store, catalog_of(photos))


def test_a_image_that_fits_in_no_memory_is_an_error_that_names_it(store: LocalCache, photos: Path) -> None:
    with pytest.raises(CacheError, match=r"\d\.png at \d+x24"):
        fill(store, catalog_of(photos), Convolution(limit=0))


@pytest.mark.parametrize("factor", [float("nan"), 1e9])
def test_latents_that_16_bits_cannot_hold_are_an_error_that_names_the_image(
    store: LocalCache, photos: Path, factor: float
) -> None:
    with pytest.raises(CacheError, match=r"\d\.png"):
        fill(store, catalog_of(photos), Convolution(factor=factor))


def test_a_flipped_byte_is_named_by_its_image_and_only_that_is_encoded_again(
    store: LocalCache, photos: Path, tmp_path: Path
) -> None:
    fill(store, catalog_of(photos), Convolution())
    shard = max((tmp_path / "vae").glob("*.safetensors"), key=lambda path: path.stat().st_size)
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    vae = Convolution()
    _, heard = fill(store, catalog_of(photos), vae, scan_for_errors=True)
    assert vae.encoded == 1
    (warning,) = heard.warnings
    assert ".png of dataset photos" in warning and shard.name in warning
    assert right(store, catalog_of(photos))


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_harmed_shard_is_named_and_only_what_it_held_is_encoded_again(
    store: LocalCache, photos: Path, tmp_path: Path, harm: str
) -> None:
    fill(store, catalog_of(photos), Convolution(), write_batch_size=3)
    shard = min((tmp_path / "vae").glob("*.safetensors"), key=lambda path: path.stat().st_size)
    shard.unlink() if harm == "gone" else shard.write_bytes(shard.read_bytes()[:-1])
    vae = Convolution()
    _, heard = fill(store, catalog_of(photos), vae)
    assert vae.encoded == 1
    assert [shard.name in text for text in heard.warnings] == [True]
    assert right(store, catalog_of(photos))
    assert not fill(store, catalog_of(photos), vae)[1].warnings


def test_ranks_divide_the_images_and_agree_on_the_unreadable(store: LocalCache, photos: Path) -> None:
    catalog = catalog_of(photos)
    (photos / "2.png").unlink()
    (photos / "5.png").unlink()
    meeting = threading.Barrier(2)

    class Rank(SingleProcess):
        def barrier(self) -> None:
            meeting.wait(timeout=30)

    vaes, found = [Convolution(), Convolution()], {}

    def run(rank: int) -> None:
        found[rank], _ = fill(store, catalog, vaes[rank], ranks=Rank(rank, 2), scan_for_errors=True)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [vae.encoded for vae in vaes] == [4, 4]
    assert found[0] == found[1] and {one.path for one in found[0]} == {"2.png", "5.png"}


FILLER = """
import sys, time
from pathlib import Path
from helpers.storage.local import LocalCache
from tests.unit.cache.encoders import Convolution, catalog_of
from tests.unit.cache.test_latents import fill

class Slow(Convolution):
    def encode(self, pixels, *, at_most=None):
        time.sleep(float(sys.argv[3]))
        return super().encode(pixels, at_most=at_most)

vae = Slow()
print("ready", flush=True)
fill(LocalCache(Path(sys.argv[2])), catalog_of(Path(sys.argv[1])), vae, vae_batch_size=1, write_batch_size=2)
print(vae.encoded)
"""


def filler(photos: Path, cache: Path, *, seconds: float) -> subprocess.Popen:
    """Another process that fills a cache, `seconds` for each image."""
    command = [sys.executable, "-c", FILLER, str(photos), str(cache), str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": "."})


def test_what_was_cached_before_a_kill_is_not_encoded_again(store: LocalCache, photos: Path, tmp_path: Path) -> None:
    process = filler(photos, tmp_path / "vae", seconds=0.1)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "vae").glob("shard-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    vae = Convolution()
    _, heard = fill(store, catalog_of(photos), vae)
    assert 0 < vae.encoded <= 6
    assert not heard.warnings
    assert right(store, catalog_of(photos))


def test_two_processes_fill_one_store_side_by_side(store: LocalCache, photos: Path, tmp_path: Path) -> None:
    processes = [filler(photos, tmp_path / "vae", seconds=0.05) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    for process in processes:
        process.communicate()
    vae = Convolution()
    _, heard = fill(store, catalog_of(photos), vae)
    assert vae.loads == 0 and not heard.warnings
    assert right(store, catalog_of(photos))


def test_a_full_cache_is_opened_without_the_libraries_that_decode(photos: Path, tmp_path: Path) -> None:
    fill(LocalCache(tmp_path / "vae"), catalog_of(photos), Convolution())
    script = (
        "import sys; from helpers.cache import latents, text; "
        "print([name for name in ('PIL', 'diffusers', 'transformers', 'zstandard', 'pyarrow') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_the_other_side_of_a_image_has_latents_of_its_own(store: LocalCache, photos: Path) -> None:
    plain = catalog_of(photos)
    mirrored = replace(plain, mirrored=True)
    fill(store, plain, Convolution())
    vae = Convolution()
    fill(store, mirrored, vae)
    assert sum(vae.batches) == 10, "the side that is there is not encoded again"
    assert right(store, plain) and right(store, mirrored)
    for index in range(len(plain)):
        one, other = read_pixels(plain, index), read_pixels(mirrored, index)
        assert not isinstance(one, Rejected) and not isinstance(other, Rejected)
        assert (one[:, ::-1] == other).all() and (one != other).any()


@pytest.mark.parametrize("limit", [1, 3])
def test_as_many_images_as_fit_are_encoded_at_once_down_to_one(store: LocalCache, photos: Path, limit: int) -> None:
    vae = Convolution(limit=limit)
    assert fill(store, catalog_of(photos), vae)[0] == ()
    assert max(vae.batches) == {1: 1, 3: 2}[limit], "four are halved until they fit"
    assert right(store, catalog_of(photos))


def test_images_are_decoded_only_a_few_batches_ahead_of_a_slow_encoder(store: LocalCache, tmp_path: Path) -> None:
    for number in range(80):
        image(tmp_path / "photos" / f"{number}.png", seed=number)
    read: list[str] = []
    encodes, released = threading.Event(), threading.Event()

    class Counting(LocalSource):
        def read(self, path: str) -> bytes:
            read.append(path)
            return super().read(path)

    class Stuck(Convolution):
        def encode(self, pixels: torch.Tensor, *, at_most: int | None = None) -> torch.Tensor:
            encodes.set()
            released.wait(60)
            return super().encode(pixels, at_most=at_most)

    catalog = replace(catalog_of(tmp_path / "photos"), source=Counting(tmp_path / "photos"))
    thread = threading.Thread(target=fill, args=(store, catalog, Stuck()))
    thread.start()
    assert encodes.wait(60)
    thread.join(timeout=1)  # long enough to read all of them where nothing holds it back
    ahead = len(read)
    released.set()
    thread.join()
    assert 4 <= ahead <= 32
    assert len(read) == 80 and right(store, catalog)


def test_a_file_whose_size_its_list_does_not_tell_is_encoded(store: LocalCache, photos: Path) -> None:
    """A table of addresses knows of no sizes."""
    catalog = replace(catalog_of(photos), size_bytes=np.full(10, SIZE_UNKNOWN))
    assert fill(store, catalog, Convolution())[0] == ()
    assert right(store, catalog)


def test_a_batch_is_of_one_target_size_wherever_images_are_cropped(store: LocalCache, photos: Path) -> None:
    """Two target sizes, each cut out of a larger image at several places."""
    boxes = [(8 * (number % 2), 0, 8 * (number % 2) + 24 + 8 * (number // 5), 24) for number in range(10)]
    geometries = np.array([(48, 32, *box) for box in boxes], dtype=np.int32)
    catalog, vae = replace(catalog_of(photos), geometries=geometries), Convolution()
    assert fill(store, catalog, vae)[0] == ()
    assert sorted(vae.batches) == [1, 1, 4, 4], "five of each size, in batches of four"
    assert right(store, catalog)
