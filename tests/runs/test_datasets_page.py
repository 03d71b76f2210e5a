"""Every run leaves a page that shows what it trains on, opened here by a real browser where there is one."""

from pathlib import Path

import pytest

from tests.runs.browser import BROWSER, opened
from tests.runs.harness import SmallRun, draw_set


@pytest.fixture
def run(tmp_path: Path, tiny_pipeline: Path) -> SmallRun:
    draw_set(tmp_path / "output" / "datasets" / "colors")
    (tmp_path / "output" / "datasets" / "colors" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return SmallRun(tmp_path, tiny_pipeline, settings={"max_train_steps": 1})


def test_a_run_writes_the_page_and_writes_it_again_only_when_something_changed(run: SmallRun) -> None:
    page = run.output / "datasets.html"
    assert run.start() == 0
    first = page.stat().st_mtime_ns
    text = page.read_text(encoding="utf-8")
    assert "7 images in 1 dataset, 1 left out" in text
    assert "cut.png" in text
    assert "2 images, 1 batch" in text
    assert "Captions in tokens of" in text
    assert "none is truncated" in text
    assert run.start(max_train_steps=2) == 0
    assert page.stat().st_mtime_ns == first
    assert run.start(max_train_steps=3, resolution=48) == 0
    assert page.stat().st_mtime_ns != first
    assert "48x48" in page.read_text(encoding="utf-8")


def test_a_dry_run_writes_the_page_as_well(run: SmallRun) -> None:
    assert run.start(dry_run=True) == 0
    text = (run.output / "datasets.html").read_text(encoding="utf-8")
    assert "7 images in 1 dataset, 1 left out" in text
    assert "none is truncated" in text


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to open the page with")
def test_a_browser_without_a_network_shows_every_image(run: SmallRun, tmp_path: Path) -> None:
    assert run.start() == 0
    page = run.output / "datasets.html"
    text = page.read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    probe = page.with_name("probe.html")
    check = "<script>addEventListener('load', () => document.title = [...document.images]"
    probe.write_text(text.replace(' loading="lazy"', "") + check + ".every(i => i.naturalWidth > 20))</script>")
    shown = opened(probe, tmp_path / "profile")
    assert "<title>true</title>" in shown
    assert shown.count("<img") == 7
