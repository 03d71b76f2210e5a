"""Local datasets through real runs: several at once, every caption and crop, bad images, mistakes in settings."""

import hashlib
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.cache import latents
from helpers.storage.local import LocalSource
from tests.runs.harness import COLORS, SmallRun, draw_set, encoded, image_dataset, same


@pytest.fixture
def run(tmp_path: Path, tiny_pipeline: Path) -> SmallRun:
    draw_set(tmp_path / "output" / "datasets" / "colors")
    return SmallRun(tmp_path, tiny_pipeline, settings={"max_train_steps": 2})


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A text cache that runs of this module share, as they say the same words."""
    cache = tmp_path_factory.mktemp("texts")
    return {"id": "texts", "type": "local", "dataset_type": "text_embeds", "cache_dir": str(cache)}


def said_by(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_two_data_sets_each_with_its_own_resolution_crop_and_cache(
    run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_set(run.output / "datasets" / "more")
    run.datasets = [
        image_dataset(),
        image_dataset(
            id="more",
            instance_data_dir="datasets/more",
            resolution=48,
            crop=True,
            crop_aspect="square",
            cache_dir_vae="cache/more",
            repeats=2,
        ),
    ]
    assert run.start(num_train_epochs=1, max_train_steps=None) == 0
    said = said_by(capsys)
    assert encoded(said) == {"colors": 7, "more": 7, "clip_l": 8, "clip_g": 8, "t5": 8}
    assert "more 48x48: 7 images, each 3 times, 11 batches" in said
    assert "colors 96x64: 2 images, 1 batch" in said
    assert "training: 8 steps" in said, "4 batches of the first and 11 of the second, two batches a step"
    assert len(list((run.output / "cache/vae").glob("shard-*"))) == 4
    assert len(list((run.output / "cache/more").glob("shard-*"))) == 4


CAPTIONS = {
    "filename": ({}, 7),
    "textfile": ({}, 14),
    "instanceprompt": ({"instance_prompt": "a square"}, 1),
    "prepended": ({"caption_strategy": "textfile", "prepend_instance_prompt": True, "instance_prompt": "my"}, 14),
    "only": ({"caption_strategy": "filename", "only_instance_prompt": True, "instance_prompt": "a square"}, 1),
}


@pytest.mark.parametrize("strategy", CAPTIONS)
def test_each_way_to_caption(strategy: str, run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Two lines in a text file are two captions, both encoded; the empty caption is always there for dropout."""
    settings, captions = CAPTIONS[strategy]
    for name in COLORS:
        note = run.output / "datasets" / "colors" / f"{name} square.txt"
        note.write_text(f"a {name} square\n\n  something all {name}  \n")
    run.datasets = [image_dataset(**{"caption_strategy": strategy, **settings})]
    assert run.start() == 0
    assert encoded(said_by(capsys)) == {"colors": 7, **dict.fromkeys(("clip_l", "clip_g", "t5"), captions + 1)}


def test_captions_that_are_cut_are_told_of_in_a_cached_start_too(
    run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in COLORS:
        words = "word " * (200 if name == "red" else 3)
        (run.output / "datasets" / "colors" / f"{name} square.txt").write_text(f"{words} {name}")
    run.datasets = [image_dataset(caption_strategy="textfile")]
    assert run.start(cache_only=True) == 0
    first = said_by(capsys)
    assert "1 of 7 captions are longer than the 77 tokens that CLIP reads, the longest of 203 tokens" in first
    assert first.count("it does not see the rest: colors: red square.png\n") == 2, "CLIP's line, and T5's"
    assert run.start(cache_only=True) == 0
    again = said_by(capsys)
    assert encoded(again) == {} and again.count("it does not see the rest: colors: red square.png\n") == 2


def test_what_is_to_be_trusted_is_not_looked_at(
    run: SmallRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run.datasets = [image_dataset(skip_file_discovery="metadata")]
    assert run.start(cache_only=True) == 0
    assert "7 images in" in said_by(capsys)
    draw_set(run.output / "datasets" / "colors" / "later")
    listed: list[LocalSource] = []
    looked_up: list[str] = []
    list_folder, latent_keys = LocalSource.list, latents.latent_keys
    monkeypatch.setattr(LocalSource, "list", lambda source: (listed.append(source), list_folder(source))[1])
    monkeypatch.setattr(
        latents, "latent_keys", lambda catalog, **rest: (looked_up.append("vae"), latent_keys(catalog, **rest))[1]
    )
    run.datasets = [image_dataset(skip_file_discovery="vae,text metadata")]
    assert run.start(max_train_steps=1) == 0
    said = said_by(capsys)
    assert listed == [] and looked_up == [] and encoded(said) == {} and "7 images in" in said
    run.datasets = [image_dataset(skip_file_discovery="")]
    assert run.start(cache_only=True) == 0
    assert listed and looked_up and encoded(said_by(capsys))["colors"] == 7
    run.datasets = [image_dataset(skip_file_discovery="vae")]
    draw_set(run.output / "datasets" / "colors" / "never encoded")
    assert run.start(resume_from_checkpoint="none", max_train_steps=30) == 1
    assert "without `vae` in skip_file_discovery" in capsys.readouterr().err


def test_a_image_without_a_text_file_is_left_out_by_name(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run.output / "datasets" / "colors"
    (folder / "red square.txt").write_text("a red square")
    run.datasets = [image_dataset(caption_strategy="textfile")]
    assert run.start() == 0
    said = said_by(capsys)
    assert encoded(said)["colors"] == 1
    assert "6 images left out" in said and "black square.png" in said and "caption_fallback" in said
    run.datasets = [image_dataset(caption_strategy="textfile", caption_fallback=True)]
    assert run.start(resume_from_checkpoint="none") == 0
    assert encoded(said_by(capsys))["colors"] == 6


@pytest.mark.parametrize("style", ["center", "random", "corner"])
@pytest.mark.parametrize("aspect", ["square", "preserve", "random", "closest"])
def test_every_crop_is_trained_on(
    style: str, aspect: str, run: SmallRun, texts: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    several = {"crop_aspect_buckets": [0.75, 1.0, 1.5]} if aspect in ("random", "closest") else {}
    dataset = image_dataset(crop=True, crop_style=style, crop_aspect=aspect, **several)
    run.datasets = [dataset, texts]
    assert run.start(max_train_steps=1) == 0
    said = said_by(capsys)
    assert encoded(said)["colors"] == 7
    buckets = {line.split(":")[0].removeprefix("colors ") for line in said.splitlines() if line.startswith("colors ")}
    expected = {
        "square": {"64x64"},
        "preserve": {"64x64", "64x96", "96x64"},
        "closest": {"64x64", "64x80", "96x64"},
    }
    assert buckets == expected.get(aspect, buckets) and buckets <= {"64x64", "64x96", "96x64", "64x80"}


def test_crops_follow_faces_that_are_looked_for_once(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    photograph = Image.open(Path(__file__).parents[1] / "unit/data/astronaut.jpg")
    image = Image.new("RGB", (1000, 400), "navy")
    image.paste(photograph, (616, 8))
    image.save(run.output / "datasets" / "colors" / "an astronaut.png")
    run.datasets = [image_dataset(crop=True, crop_style="face")]
    assert run.start() == 0
    said = said_by(capsys)
    assert encoded(said)["colors"] == 8 and "no face was found in 7 of 8 images" in said
    assert "looked for faces in images of colors" in said
    assert run.start(resume_from_checkpoint="none") == 0
    said = said_by(capsys)
    assert "colors" not in encoded(said) and "looked for faces" not in said
    run.datasets = [image_dataset(crop=True)]
    assert run.start(resume_from_checkpoint="none") == 0
    assert encoded(said_by(capsys))["colors"] == 1, "only the image with a face is cut elsewhere"


def bad_images(folder: Path) -> None:
    """One of each kind that people have in their folders."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8))
    content = io.BytesIO()
    image.save(content, "JPEG", quality=95)
    (folder / "truncated.jpg").write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "nonsense.png").write_bytes(b"this is no image" * 10)
    (folder / "wrong ending.png").write_bytes(content.getvalue())
    (folder / "image.without.known.ending").write_bytes(content.getvalue())
    image.convert("CMYK").save(folder / "cmyk.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "rotated.jpg", exif=exif)
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("P").save(folder / "palette.png")
    image.convert("P").save(folder / "see-through palette.png", transparency=3)
    Image.fromarray(rng.integers(0, 65536, (64, 80), dtype=np.uint16)).save(folder / "16 bit.png")
    image.convert("L").save(folder / "gray.webp")
    image.save(folder / "animated.gif", save_all=True, append_images=[image.rotate(90)] * 3, duration=50)
    (folder / "note.txt").write_text("buy milk")
    (folder / "Thumbs.db").write_bytes(b"\0" * 64)
    image.save(folder / ".hidden.png")


GOOD_AFTER_ALL = 10


def listing(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "",
            path.stat().st_mtime_ns,
        )
        for path in [folder, *folder.rglob("*")]
    }


def test_bad_images_are_named_or_taken_and_never_touched(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = SmallRun(tmp_path, tiny_pipeline, settings={"max_train_steps": 6})
    folder = run.output / "datasets" / "colors"
    bad_images(folder)
    before = listing(run.output / "datasets")
    assert run.start() == 0
    said = said_by(capsys)
    assert "truncated.jpg" in said and "is cut short" in said
    assert "empty.png" in said and "is an empty file" in said
    assert "nonsense.png" in said and "is not an image in any format" in said
    assert "3 other files ignored" in said
    assert "64x80: 1 image" in said, "the rotated one stands upright"
    assert listing(run.output / "datasets") == before
    learned = run.weights()

    assert run.start(resume_from_checkpoint="none") == 0
    again = said_by(capsys)
    assert encoded(again) == {} and "truncated.jpg" in again, "known without decoding it again, and still named"
    assert f"dataset colors: {GOOD_AFTER_ALL} images in 2 sizes" in again
    assert same(run.weights(), learned), "whether it was known at start or found on the way makes no difference"


def missing_folder(run: SmallRun) -> dict[str, Any]:
    shutil.rmtree(run.output / "datasets")
    return {}


def misspelt_key(run: SmallRun) -> dict[str, Any]:
    run.datasets = [image_dataset(resolutoin=64)]
    return {}


def misspelt_flag(run: SmallRun) -> dict[str, Any]:
    return {"learning_rat": 1}


def empty_folder(run: SmallRun) -> dict[str, Any]:
    shutil.rmtree(run.output / "datasets" / "colors")
    (run.output / "datasets" / "colors").mkdir()
    return {}


def no_model(run: SmallRun) -> dict[str, Any]:
    return {"pretrained_model_name_or_path": run.folder / "nowhere"}


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (missing_folder, ("datasets/colors",)),
        (empty_folder, ("datasets/colors", "no images")),
        (misspelt_key, ("resolutoin", "did you mean", "resolution")),
        (misspelt_flag, ("learning_rat", "did you mean", "learning_rate")),
        (no_model, ("nowhere",)),
    ],
)
def test_a_mistake_is_told_once_and_ends_the_run(
    mistake: Any, told: tuple[str, ...], run: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.start(**mistake(run)) == 1
    error = capsys.readouterr().err
    assert all(word in error for word in told)
    assert "Traceback" not in error
    assert not list(run.output.glob("checkpoint-*"))
