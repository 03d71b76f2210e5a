"""Caches change how long a run takes and nothing else: cold, warm, half filled, spoilt or shared, the weights agree."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.runs.harness import COLORS, SmallRun, draw, draw_set, encoded, image_dataset, same

EVERY_ENCODER = ("clip_l", "clip_g", "t5")
CAPTIONS = len(COLORS) + 1
ALL_CAPTIONS = dict.fromkeys(EVERY_ENCODER, CAPTIONS)
DATASET = image_dataset()
OTHER_WEIGHTS = "another pipeline"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    """A run that found no cache; leave it as it is."""
    run = SmallRun(tmp_path_factory.mktemp("finished"), tiny_pipeline)
    draw_set(run.output / "datasets" / "colors")
    assert run.start() == 0
    return run


@pytest.fixture(scope="module")
def another_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from helpers.models.sd3.tiny import make_tiny_pipeline

    return make_tiny_pipeline(tmp_path_factory.mktemp("another") / "tiny", seed=1)


@pytest.fixture
def cached(finished: SmallRun, tmp_path: Path) -> SmallRun:
    """The images and the full caches of the finished run, and none of what it learned."""
    for folder in ("datasets", "cache"):
        shutil.copytree(finished.output / folder, tmp_path / "output" / folder)
    return SmallRun(tmp_path, finished.pipeline)


def shards(run: SmallRun, store: str) -> list[Path]:
    return sorted((run.output / "cache" / store).glob("shard-*"))


def test_a_warm_cache_is_used_and_changes_nothing(
    cached: SmallRun, finished: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cached.start() == 0
    assert encoded(capsys.readouterr().out) == {}
    assert same(cached.weights(), finished.weights())


def test_shards_that_are_gone_are_named_and_made_again(
    cached: SmallRun, finished: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = [*shards(cached, "vae")[::2], *shards(cached, "text")[::2]]
    for shard in gone:
        shard.unlink()
    assert cached.start() == 0
    said = capsys.readouterr().out
    assert all(shard.name in said for shard in gone)
    assert 0 < encoded(said)["colors"] < len(COLORS)
    assert same(cached.weights(), finished.weights())


def test_a_cache_filled_for_fewer_images_is_filled_up(
    tmp_path: Path, finished: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run = SmallRun(tmp_path, finished.pipeline)
    images = sorted((finished.output / "datasets" / "colors").iterdir())
    folder = run.output / "datasets" / "colors"
    folder.mkdir(parents=True)
    for image in images[1::2]:
        shutil.copy2(image, folder)
    assert run.start(cache_only=True) == 0
    assert encoded(capsys.readouterr().out)["colors"] == 3
    for image in images[::2]:
        shutil.copy2(image, folder)
    assert run.start() == 0
    assert encoded(capsys.readouterr().out) == {"colors": 4, **dict.fromkeys(EVERY_ENCODER, 4)}
    assert same(run.weights(), finished.weights())


def test_two_processes_may_fill_one_cache_at_once(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Enough images, in shards of one, that both are at it together."""
    alone, shared = (SmallRun(tmp_path / name, tiny_pipeline) for name in ("alone", "shared"))
    for name, color in COLORS.items():
        for number in range(6):
            image = alone.output / "datasets" / "colors" / f"{name} {number}.png"
            draw(image, color=color, size=(64, 64), seed=number)
    shutil.copytree(alone.output / "datasets", shared.output / "datasets")
    both = [shared.process(cache_only=True, write_batch_size=1) for _ in range(2)]
    assert alone.start() == 0
    capsys.readouterr()
    for process in both:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
    assert shared.start() == 0
    said = capsys.readouterr().out
    assert encoded(said) == {} and "encoded again" not in said
    assert same(shared.weights(), alone.weights())


@pytest.mark.parametrize("store", ["vae", "text"])
def test_a_shard_cut_short_is_found_at_start_named_and_made_again(
    store: str, cached: SmallRun, finished: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = shards(cached, store)[0]
    cut.write_bytes(cut.read_bytes()[:-10])
    assert cached.start() == 0
    said = capsys.readouterr().out
    assert cut.name in said
    assert said.index(cut.name) < said.index("training:")
    assert sum(encoded(said).values()) > 0
    assert same(cached.weights(), finished.weights())

    assert cached.start(resume_from_checkpoint="none") == 0
    said = capsys.readouterr().out
    assert encoded(said) == {} and "encoded again" not in said


@pytest.mark.parametrize("store", ["vae", "text"])
def test_a_scan_finds_one_flipped_byte_and_names_whose_it_is(
    store: str, cached: SmallRun, finished: SmallRun, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = shards(cached, store)[0]
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    cached.datasets = [image_dataset(scan_for_errors=True)]
    assert cached.start() == 0
    said = capsys.readouterr().out
    first_told, _, told_again = said.partition("warnings of this run:")
    [line] = [line for line in first_told.splitlines() if "is damaged" in line]
    assert told_again.count("is damaged") == 1
    assert sum(name in line for name in (*COLORS, "the caption ''")) == 1
    assert sum(encoded(said).values()) == 1
    assert same(cached.weights(), finished.weights())


def test_a_fully_cached_start_knows_neither_text_encoders_nor_vae(cached: SmallRun) -> None:
    """Not even their code: what was never imported was never loaded."""
    code = (
        "import sys, train\n"
        "status = train.main(sys.argv[1:])\n"
        "parts = ('.clip.', '.t5.', '.autoencoder_kl.')\n"
        "known = [name for name in sys.modules if any(part in f'{name}.' for part in parts)]\n"
        "assert 'diffusers.models.transformers.transformer_sd3' in sys.modules\n"
        "assert not known, known\n"
        "sys.exit(status)\n"
    )
    process = cached.process("-c", code)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "checkpoint-6" in output


def test_one_image_more_encodes_one(cached: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    draw(cached.output / "datasets/colors/orange.png", color=(250, 150, 10), size=(64, 64))
    assert cached.start(cache_only=True) == 0
    assert encoded(capsys.readouterr().out) == {"colors": 1, **dict.fromkeys(EVERY_ENCODER, 1)}


def test_another_image_under_the_same_name_is_encoded(cached: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    draw(cached.output / "datasets/colors/red square.png", color=(250, 150, 10), size=(80, 80))
    assert cached.start(cache_only=True) == 0
    assert encoded(capsys.readouterr().out) == {"colors": 1}


def test_one_changed_caption_encodes_one_text(
    tmp_path: Path, tiny_pipeline: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = SmallRun(tmp_path, tiny_pipeline, datasets=[image_dataset(caption_strategy="textfile")])
    folder = run.output / "datasets" / "colors"
    draw_set(folder)
    for name in COLORS:
        (folder / f"{name} square.txt").write_text(f"a {name} square")
    assert run.start(cache_only=True) == 0
    assert encoded(capsys.readouterr().out) == {"colors": len(COLORS), **ALL_CAPTIONS}
    (folder / "red square.txt").write_text("a square as red as a tomato")
    assert run.start(cache_only=True) == 0
    assert encoded(capsys.readouterr().out) == dict.fromkeys(EVERY_ENCODER, 1)


@pytest.mark.parametrize(
    ("changes", "settings", "expected"),
    [
        ({"resolution": 48}, {}, {"colors": 7}),
        # Three of the seven images are not square; of the others nothing is cut away.
        ({"crop": True, "crop_aspect": "square"}, {}, {"colors": 3}),
        ({}, {"pretrained_vae_model_name_or_path": OTHER_WEIGHTS}, {"colors": 7}),
        ({}, {"vae_dtype": "bf16"}, {"colors": 7}),
        ({}, {"tokenizer_max_length": 100}, {"t5": CAPTIONS}),
        ({}, {"sd3_t5_mask_behaviour": "mask"}, {"t5": CAPTIONS}),
        ({}, {"pretrained_t5_model_name_or_path": OTHER_WEIGHTS}, {"t5": CAPTIONS}),
        ({}, {"text_encoder_1_precision": "int8-quanto"}, {"clip_l": CAPTIONS}),
        ({}, {"validation_prompt": "a blue horse"}, dict.fromkeys(EVERY_ENCODER, 1)),
        ({"repeats": 3, "vae_batch_size": 2}, {"seed": 7, "learning_rate": 1, "train_batch_size": 1}, {}),
    ],
)
def test_a_change_encodes_what_depends_on_it_and_nothing_else(
    changes: dict[str, Any],
    settings: dict[str, Any],
    expected: dict[str, int],
    cached: SmallRun,
    another_pipeline: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cached.datasets = [image_dataset(**changes)]
    said = {name: another_pipeline if value == OTHER_WEIGHTS else value for name, value in settings.items()}
    assert cached.start(cache_only=True, **said) == 0
    assert encoded(capsys.readouterr().out) == expected

    cached.datasets = [DATASET]
    assert cached.start(cache_only=True) == 0
    assert encoded(capsys.readouterr().out) == {}, "what was there before the change is still there"
