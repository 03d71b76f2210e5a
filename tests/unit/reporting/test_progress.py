"""A stage reports its start, its progress and its peak memory."""

import sys
import threading
from pathlib import Path

import pytest

from helpers.reporting.events import Event, StageAdvanced, StageFinished, StageStarted
from helpers.reporting.progress import PROCESS_FOLDER, PeakMemory, stage
from helpers.reporting.reporter import Reporter

MEBIBYTE = 2**20


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def handle(self, event: Event) -> None:
        self.events.append(event)

    def close(self) -> None:
        pass


def test_a_stage_reports_its_start_its_progress_and_its_end() -> None:
    recorder = Recorder()
    with stage(Reporter([recorder]), "encode images", total=5, unit="images") as advance:
        advance()
        advance(count=4)
    started, first, second, finished = recorder.events
    assert started == StageStarted(name="encode images", total=5, unit="images")
    assert [first, second] == [
        StageAdvanced(name="encode images", count=1),
        StageAdvanced(name="encode images", count=4),
    ]
    assert isinstance(finished, StageFinished)
    assert 0 <= finished.seconds < 5
    assert finished.peak_memory_bytes > MEBIBYTE


def test_work_that_raises_is_not_reported_as_finished() -> None:
    recorder = Recorder()
    with pytest.raises(OSError, match="gone"), stage(Reporter([recorder]), "read", total=1, unit="files"):
        raise OSError("gone")
    assert [type(event) for event in recorder.events] == [StageStarted]


@pytest.mark.skipif(not (PROCESS_FOLDER / "clear_refs").exists(), reason="this system keeps one high-water mark")
def test_a_stage_is_not_charged_with_the_memory_of_the_one_before() -> None:
    recorder = Recorder()
    reporter = Reporter([recorder])
    with stage(reporter, "large", total=1, unit="blocks"):
        block = bytearray(200 * MEBIBYTE)
        del block
    with stage(reporter, "small", total=1, unit="blocks"):
        pass
    large, small = (event.peak_memory_bytes for event in recorder.events if isinstance(event, StageFinished))
    assert large - small > 150 * MEBIBYTE


@pytest.mark.parametrize("kind", ["missing", "refused"])
def test_where_the_peak_cannot_be_reset_it_is_the_process_s(tmp_path: Path, kind: str) -> None:
    if kind == "refused":
        (tmp_path / "clear_refs").mkdir()
    block = bytearray(64 * MEBIBYTE)
    assert PeakMemory(tmp_path).resident_bytes() > len(block)


def test_measuring_neither_imports_torch_nor_wakes_a_device() -> None:
    import subprocess

    measure = "import sys; from helpers.reporting.progress import PeakMemory; assert PeakMemory().device_bytes() == 0"
    code = f"{measure}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_may_advance_a_stage_at_once() -> None:
    inside, overlaps = 0, 0

    class Counter(Recorder):
        def handle(self, event: Event) -> None:
            nonlocal inside, overlaps
            inside += 1
            overlaps += inside > 1
            super().handle(event)
            inside -= 1

    counter = Counter()
    with stage(Reporter([counter]), "read", total=400, unit="files") as advance:
        threads = [threading.Thread(target=lambda: [advance() for _ in range(100)]) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(isinstance(event, StageAdvanced) for event in counter.events) == 400
    assert overlaps == 0
