"""The points of a run stay few, and its history is complete however often it is stopped."""

from pathlib import Path

import pytest

from helpers.reporting.pages.run_history import (
    Curve,
    End,
    History,
    HistoryFile,
    Point,
    Record,
    Saved,
    SavedImage,
    Start,
    Warned,
)


def point(step: int, loss: float = 0.0) -> Point:
    return Point(first=step, last=step, means={"loss": (loss or step / 8, 1)})


def start(first_step: int) -> Start:
    return Start(
        at=1.0,
        first_step=first_step,
        total_steps=100,
        base_model="a/model",
        model_type="lora",
        trainable_parameters=10,
        settings={},
        datasets={},
    )


def history_after(path: Path, *records: Record) -> History:
    """What the next start finds of these records."""
    file = HistoryFile(path)
    for record in records:
        file.append(record)
    file.close()
    return HistoryFile(path).history


def test_a_long_curve_is_thinned_to_means_over_neighbors() -> None:
    curve = Curve(limit=8)
    for step in range(1, 101):
        curve.add(point(step, float(step)))
    assert 4 <= len(curve.points) <= 8
    assert [each.first for each in curve.points] == [1, 17, 33, 49, 65, 81, 97]
    assert curve.points[0].means["loss"] == (pytest.approx(8.5), 16)
    assert (curve.points[-1].last, curve.points[-1].means["loss"]) == (100, (pytest.approx(98.5), 4))


def test_a_metric_that_some_steps_lack_is_the_mean_of_the_others() -> None:
    first = Point(first=1, last=1, means={"a": (1.0, 1)})
    both = first.merged(Point(first=2, last=3, means={"a": (4.0, 2), "b": (5.0, 1)}))
    assert both == Point(first=1, last=3, means={"a": (3.0, 3), "b": (5.0, 1)})


def test_steps_taken_again_take_the_place_of_what_they_were(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "history.jsonl"
    images = [SavedImage(step=step, file=f"step_{step}/a.png", caption="a") for step in (0, 4, 8)]
    first = history_after(path, start(0), *map(point, range(1, 9)), *images, Saved(step=4), Warned(step=2, text="hot"))
    assert first.step == 8
    again = history_after(path, start(4), point(5, 99.0), End(at=2.0, step=5, how="interrupted"))
    losses = [each.means["loss"][0] for each in again.curve.points]
    assert losses == [0.125, 0.25, 0.375, 0.5, 99.0]
    assert [each.step for each in again.images.values()] == [0, 4]
    assert [each.first_step for each in again.starts] == [0, 4]
    assert again.ends == {1: End(at=2.0, step=5, how="interrupted")}
    assert list(again.warnings) == ["hot"]
    assert again.saved_step == 4


def test_a_run_started_again_forgets_all_but_the_base_models_images(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    images = [SavedImage(step=step, file=f"step_{step}/a.png", caption="a") for step in (0, 4)]
    history = history_after(path, start(0), *map(point, range(1, 9)), *images, Warned(step=2, text="hot"), start(0))
    assert (history.curve.points, len(history.starts), history.warnings) == ([], 1, {})
    assert [each.step for each in history.images.values()] == [0]


def test_what_a_killed_writer_left_unfinished_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    history_after(path, start(0), point(1), point(2))
    with path.open("a") as file:
        file.write('{"kind":"Newer","a":1}\n[]\n{"kind":"Point","fir')
    history = history_after(path, start(2), point(3))
    assert [each.last for each in history.curve.points] == [1, 2, 3]


def test_the_file_of_a_long_run_is_short_and_says_what_the_run_showed(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    file = HistoryFile(path)
    for step in range(1, 20_001):
        file.append(point(step))
    file.close()
    assert len(path.read_text().splitlines()) < 5000
    read = HistoryFile(path).history.curve.points
    assert [(each.first, each.last) for each in read] == [(e.first, e.last) for e in file.history.curve.points]
    assert [e.means["loss"][0] for e in read] == pytest.approx(
        [e.means["loss"][0] for e in file.history.curve.points], rel=1e-4
    )


def test_the_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """Its lines have `Drawn` for an image, and `trained_numbers` for the trainable parameters."""
    (tmp_path / "history.jsonl").write_text(
        '{"kind":"Start","at":1.0,"first_step":0,"total_steps":9,"base_model":"a","model_type":"lora",'
        '"trained_numbers":10,"settings":{},"datasets":{},"changes":[]}\n'
        '{"kind":"Drawn","step":4,"file":"step_4/a.png","caption":"a"}\n'
    )
    history = HistoryFile(tmp_path / "history.jsonl").history
    assert history.starts[0].trainable_parameters == 10
    assert list(history.images.values()) == [SavedImage(step=4, file="step_4/a.png", caption="a")]
