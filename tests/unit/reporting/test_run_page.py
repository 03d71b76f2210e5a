"""The run page shows the run's events, and escapes every text in them."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from helpers.reporting.events import (
    Change,
    CheckpointSaved,
    Event,
    MemoryUse,
    MetricsMeasured,
    Notice,
    RunFailed,
    RunFinished,
    RunStarted,
    SigmaLoss,
    StepFinished,
    ValidationImagesSaved,
)
from helpers.reporting.pages.run_history import SavedImage
from helpers.reporting.pages.run_page_images import SmallImages, evenly, prompt_cards, rows_of
from helpers.reporting.pages.run_page_listener import RunPage
from tests.runs.browser import BROWSER, opened

SCRIPT = "<script>alert(1)</script>"
SECRET = "hf_PlantedToken"


def started(first_step: int, *, changes: tuple[Change, ...] = ()) -> RunStarted:
    return RunStarted(
        base_model=SCRIPT,
        model_type="lora",
        trainable_parameters=1234,
        settings={"model": {"revision": SCRIPT, "address": f"at {SECRET}"}},
        datasets={SCRIPT: 20},
        output_dir=Path("output"),
        first_step=first_step,
        total_steps=10,
        changes=changes,
    )


def step(at: int) -> StepFinished:
    return StepFinished(step=at, epoch=0, loss=1 / at, learning_rate=0.1, gradient_norm=1.0, images=4, seconds=2)


def page_after(folder: Path, *events: Event, refresh_seconds: float = 30.0, close: bool = True) -> str:
    """The page after these events."""
    page = RunPage(folder, clean=lambda text: text.replace(SECRET, "(hidden)"), refresh_seconds=refresh_seconds)
    for event in events:
        page.handle(event)
    if close:
        page.close()
    file = folder / "run.html"
    return file.read_text(encoding="utf-8") if file.exists() else ""


def saved(folder: Path, at: int, *, name: str = "a_64x64_seed42.png", caption: str = "a fox") -> ValidationImagesSaved:
    path = folder / "validation_images" / f"step_{at}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (640, 320), (at, 90, 90)).save(path)
    return ValidationImagesSaved(step=at, paths=(path,), captions=(caption,))


def test_no_text_becomes_html_and_no_secret_is_shown(tmp_path: Path) -> None:
    changes = (Change(name="seed", before=SCRIPT, now=SECRET),)
    page = page_after(
        tmp_path,
        Notice(level="warning", text=SCRIPT),
        started(0),
        step(1),
        saved(tmp_path, 1, caption=SCRIPT),
        started(1, changes=changes),
        RunFailed(message=SCRIPT),
    )
    assert SCRIPT not in page
    assert page.count("&lt;script&gt;alert(1)") >= 7
    assert SECRET not in page
    assert SECRET not in (tmp_path / "logs" / "history.jsonl").read_text()
    assert "http:" not in page
    assert "https:" not in page


def test_a_resumed_runs_page_shows_all_of_it(tmp_path: Path) -> None:
    first = page_after(tmp_path, started(0), *map(step, range(1, 6)), RunFailed(message="the disk is full"))
    assert '<span class="badge failed">failed</span>' in first
    assert "the disk is full" in first
    changes = (Change(name="learning_rate", before="0.2", now="0.1"),)
    page = page_after(
        tmp_path,
        started(4, changes=changes),
        *map(step, range(5, 11)),
        CheckpointSaved(step=10, path=tmp_path),
        RunFinished(step=10, seconds=1.0, written=()),
    )
    assert '<span class="badge finished">finished</span>' in page
    assert "the disk is full" not in page
    assert "failed at step 5" in page
    assert "<td>learning_rate</td><td>0.2</td><td>0.1</td>" in page
    points = re.findall(r"\[(\d+)\.0, [\d.]+\]", page.split("Loss</h3>")[1].split("smoothed")[0])
    assert [int(number) for number in points] == list(range(1, 11))


def test_the_page_of_a_run_that_goes_on_looks_for_a_newer_one(tmp_path: Path) -> None:
    assert "location.reload" in page_after(tmp_path, started(0), close=False)
    assert "location.reload" not in page_after(tmp_path, started(0), RunFinished(step=10, seconds=1.0, written=()))
    assert "interrupted, can be resumed" in page_after(tmp_path, started(0), step(1))


def test_steps_alone_write_the_page_only_so_often(tmp_path: Path) -> None:
    rarely = page_after(tmp_path, started(0), step(1), step(2), close=False)
    assert "<b>0</b><span>of 10 steps" in rarely
    assert "<b>2</b><span>of 10 steps" in page_after(
        tmp_path, started(0), step(1), step(2), refresh_seconds=0, close=False
    )
    assert "<b>3</b><span>of 10 steps" in page_after(
        tmp_path, started(0), step(3), CheckpointSaved(step=3, path=tmp_path), close=False
    )


def test_there_is_no_page_where_nothing_is_trained(tmp_path: Path) -> None:
    assert page_after(tmp_path, Notice(text="x", level="warning"), RunFailed(message="no settings")) == ""
    assert not list(tmp_path.iterdir())


def test_images_are_small_and_those_that_are_gone_are_left_out(tmp_path: Path) -> None:
    images = [saved(tmp_path, at) for at in (0, 5, 10)]
    images[1].paths[0].unlink()
    page = page_after(tmp_path, started(0), *images)
    assert re.findall(r'width="(\d+)" height="(\d+)"', page) == [("384", "192")] * 2
    assert page.count('src="data:image/webp;base64,') == 2
    assert ">base<" in page
    assert ">step 10<" in page


@pytest.mark.parametrize("seeds", [(42, 42, 42), (1, 2, 3)])
def test_a_prompt_is_a_row_whatever_its_seed_and_one_no_longer_generated_comes_last(seeds: tuple[int, ...]) -> None:
    now = [
        SavedImage(step=at, file=f"step_{at}/a_seed{s}.png", caption="a")
        for at, s in zip((0, 5, 10), seeds, strict=True)
    ]
    before = [SavedImage(step=at, file=f"step_{at}/b_seed1.png", caption="b") for at in (0, 5)]
    base_only = [SavedImage(step=0, file="step_0/c_seed1.png", caption="c")]
    rows = rows_of([*base_only, *before, *now])
    assert [(row.caption, [each.step for each in row.images]) for row in rows] == [("a", [0, 5, 10]), ("b", [0, 5])]
    assert [row.caption for row in rows_of(base_only)] == ["c"]


def test_of_many_steps_the_first_the_last_and_some_between_are_shown(tmp_path: Path) -> None:
    (row,) = rows_of([SavedImage(step=at, file=f"step_{at}/a.png", caption="a") for at in range(101)])
    assert [each.step for each in evenly(row, most=5)] == [0, 25, 50, 75, 100]
    for each in row.images:
        saved(tmp_path, each.step, name="a.png")
    under = [SavedImage(step=e.step, file=f"validation_images/{e.file}", caption="a") for e in row.images]
    (shown,), more = prompt_cards(under, small=SmallImages(tmp_path))
    assert (len(shown.images), shown.images[0].step, shown.images[-1].step, more) == (12, "base", "step 100", 0)


SEEN = '{"top":400,"folds":[true],"inputs":["20"],"chosen":["a fox, step 5"]}'
BEFORE = f"<script>sessionStorage.setItem('run page ' + location.pathname, '{SEEN}')</script>"
AFTER = """<script>
addEventListener('load', () => {
  const field = document.querySelector('.field'), box = field.getBoundingClientRect();
  field.dispatchEvent(new PointerEvent('pointermove', {clientX: box.left + box.width / 5}));
  const found = [document.querySelector('.compare').style.getPropertyValue('--split'), scrollY];
  found.push(document.querySelector('.right').textContent, field.querySelector('.tooltip').textContent);
  sessionStorage.clear();
  dispatchEvent(new Event('pagehide'));
  document.title = [...found, sessionStorage.getItem('run page ' + location.pathname)].join('; ');
});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to open the page with")
def test_a_page_that_is_renewed_stays_at_the_place_and_the_step_a_person_chose(tmp_path: Path) -> None:
    images = [saved(tmp_path, at) for at in (0, 5, 10)]
    page = page_after(tmp_path, started(0), *map(step, range(1, 11)), *images, close=False)
    probe = tmp_path / "probe.html"
    probe.write_text(BEFORE + page + AFTER)
    title = re.findall(r"<title>(.*?)</title>", opened(probe, tmp_path / "profile"), flags=re.DOTALL)[0]
    assert title == f"20%; 400; step 5; step 2\neach step: 0.5\nsmoothed: 0.7143; {SEEN}"


def test_the_loss_by_noise_level_says_how_many_samples_it_is_of(tmp_path: Path) -> None:
    steps = [
        replace(step(at), by_sigma=(SigmaLoss(low=0.25, high=0.5, loss=1.0, sigma=0.4, samples=at),))
        for at in (1, 2, 3)
    ]
    page = page_after(tmp_path, started(0), *steps).split("Loss by noise level")[1].split("</figure>")[0]
    assert re.findall(r"<title>(.*?)</title>", page) == ["σ 0.25-0.50 (6 samples)"]


def test_the_loss_on_images_never_trained_on_is_a_line_for_each_of_the_weights(tmp_path: Path) -> None:
    losses = [
        MetricsMeasured(
            step=at,
            evaluator="validation loss",
            metrics={
                "held_out/mean": 1 - at / 20,
                "held_out/ema_mean": 1 - at / 40,
                "held_out/base_mean": 1.0,
                "held_out/0.25-0.50": at / 8,
            },
        )
        for at in (0, 5, 10)
    ]
    whole = page_after(tmp_path, started(0), *losses)
    page = whole.split("Validation loss</h3>")[1].split("</figure>")[0]
    assert re.findall(r"<title>(.*?)</title>", page) == ["trained", "average", "base"]
    assert "[10, 0.75]" in page
    by_sigma = whole.split("Validation loss by noise level</h3>")[1].split("</figure>")[0]
    assert re.findall(r"<title>(.*?)</title>", by_sigma) == ["σ 0.25-0.50"]
    assert "[5, 0.625]" in by_sigma
    averaged = replace(losses[1], metrics={**losses[1].metrics, "held_out/ema_0.25-0.50": 0.375})
    again = page_after(tmp_path, started(5), averaged).split("Validation loss by noise level</h3>")[1]
    assert "[0, 0.0], [5, 0.375]]" in again.split("</figure>")[0]
    assert "Validation loss" not in page_after(tmp_path / "other", started(0))


def test_graphics_memory_is_shown_as_used_and_as_reserved(tmp_path: Path) -> None:
    memory = MemoryUse(peak_bytes=10**9, device_bytes=10**9, peak_device_bytes=7 * 10**9, peak_reserved_bytes=8 * 10**9)
    text = page_after(tmp_path, started(0), replace(step(1), memory=memory), replace(step(2), memory=memory))
    for figure, name in (("7 GB", "peak VRAM in use"), ("8 GB", "peak VRAM reserved")):
        assert re.search(rf"{figure}\W.{{0,80}}{name}", text, flags=re.DOTALL)
    assert text.count("peak VRAM reserved") >= 2, "as a figure, and as a line of the chart"
