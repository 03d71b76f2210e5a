"""What the console shows, in a log and on a terminal."""

import io
import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from helpers.reporting.console.console import Console, display_for
from helpers.reporting.console.displays import PlainDisplay
from helpers.reporting.events import (
    CheckpointSaved,
    MemoryUse,
    Notice,
    RunFinished,
    StageAdvanced,
    StageFinished,
    StageStarted,
    StepFinished,
    TrainingStarted,
    ValidationImagesSaved,
)
from helpers.reporting.reporter import Reporter

TRAINING = TrainingStarted(first_step=0, total_steps=60, steps_per_epoch=12.5, images_per_step=4)
ANY_MEMORY = r"[\d.]+ [MG]B"


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def step(number: int, *, loss: float = 0.5) -> StepFinished:
    return StepFinished(step=number, epoch=0, loss=loss, learning_rate=1e-4, gradient_norm=1.0, images=4)


def logged() -> tuple[Console, Clock, io.StringIO]:
    clock, stream = Clock(), io.StringIO()
    return Console(PlainDisplay(stream), clock=clock), clock, stream


def test_a_log_shows_a_stage_s_beginning_progress_and_end() -> None:
    console, clock, stream = logged()
    console.handle(StageStarted(name="encode images", total=1000, unit="images"))
    for _ in range(100):
        clock.now += 0.5
        console.handle(StageAdvanced(name="encode images", count=10))
    console.handle(StageFinished(name="encode images", seconds=50, peak_memory_bytes=1_240_000_000))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "encode images: 1,000 images"
    assert lines[1] == "encode images: 200 of 1,000 images (20 %), 20 images/s, 40 s left"
    assert len(lines) == 7, "a line every ten seconds"
    assert lines[-1] == "encode images: 1,000 images in 50 s (20 images/s), peak memory 1.24 GB"


def test_a_stage_of_unknown_length_shows_its_speed_and_device_memory() -> None:
    console, clock, stream = logged()
    console.handle(StageStarted(name="look for images", total=0, unit="files"))
    clock.now = 12
    console.handle(StageAdvanced(name="look for images", count=2400))
    finished = StageFinished(
        name="look for images",
        seconds=12,
        peak_memory_bytes=90_000_000,
        peak_device_memory_bytes=2_000_000_000,
        peak_reserved_memory_bytes=3_100_000_000,
    )
    console.handle(finished)
    assert stream.getvalue().splitlines() == [
        "look for images: started",
        "look for images: 2,400 files, 200 files/s",
        "look for images: 2,400 files in 12 s (200 files/s), peak memory 90 MB, peak VRAM 2 GB (3.1 GB reserved)",
    ]


def test_a_stage_that_finds_nothing_to_do_says_so_briefly() -> None:
    console, _, stream = logged()
    console.handle(StageStarted(name="encode captions", total=0, unit="captions"))
    console.handle(StageFinished(name="encode captions", seconds=0.1, peak_memory_bytes=90_000_000))
    assert stream.getvalue().splitlines()[-1] == "encode captions: done in 0.1 s, peak memory 90 MB"


def test_a_log_shows_the_first_step_the_last_and_some_between() -> None:
    console, clock, stream = logged()
    console.handle(TRAINING)
    for number in range(1, 61):
        clock.now += 1.0
        console.handle(step(number, loss=0.25 if number < 60 else 0.75))
    lines = stream.getvalue().splitlines()
    assert lines[0] == "training: 60 steps of 4 images, 12.5 an epoch"
    assert [line.split(",")[0] for line in lines[1:]] == [
        f"training: step {number} of 60" for number in (1, 11, 21, 31, 41, 51, 60)
    ]
    assert re.fullmatch(
        r"training: step 31 of 60, epoch 1, mean loss 0\.2500, learning rate 0\.0001, 4 images/s, 29 s left, "
        rf"peak memory {ANY_MEMORY}",
        lines[4],
    )
    (mean,) = re.findall(r"mean loss (\S+),", lines[-1])
    assert 0.25 < float(mean) < 0.30, "the loss is smoothed"


def test_the_time_left_of_a_run_that_was_continued_counts_its_own_steps_only() -> None:
    console, clock, stream = logged()
    console.handle(TrainingStarted(first_step=5000, total_steps=5100, steps_per_epoch=10, images_per_step=1))
    clock.now = 2.0
    console.handle(step(5001))
    lines = stream.getvalue().splitlines()
    assert lines[1] == "training: continues after step 5,000"
    assert "step 5,001 of 5,100" in lines[2] and "30 images/min, 3 min 18 s left" in lines[2]


def test_the_speed_is_that_of_the_last_half_minute() -> None:
    console, clock, stream = logged()
    console.handle(StageStarted(name="encode", total=10_000, unit="images"))
    clock.now = 600
    console.handle(StageAdvanced(name="encode", count=1))
    for _ in range(60):
        clock.now += 1
        console.handle(StageAdvanced(name="encode", count=10))
    assert "10 images/s" in stream.getvalue().splitlines()[-1]


def test_notices_images_and_checkpoints_are_shown() -> None:
    console, _, stream = logged()
    console.handle(Notice(text="3 images were left out"))
    console.handle(Notice(text="the disk is nearly full", level="warning"))
    console.handle(ValidationImagesSaved(step=0, paths=(Path("out/a.png"),)))
    console.handle(ValidationImagesSaved(step=1500, paths=tuple(Path(f"out/{n}.png") for n in range(5))))
    console.handle(CheckpointSaved(step=1500, path=Path("out/checkpoint-1500")))
    assert stream.getvalue().splitlines() == [
        "3 images were left out",
        "warning: the disk is nearly full",
        "images of the base model: out/a.png",
        "images at step 1,500: out/0.png, out/1.png, out/2.png and 2 more",
        "checkpoint at step 1,500: out/checkpoint-1500",
    ]


@pytest.mark.parametrize("interrupted", [False, True])
def test_the_end_names_what_was_written_and_how_to_continue(interrupted: bool) -> None:
    console, clock, stream = logged()
    console.handle(TRAINING)
    warning = Notice(text="2 images were left out", level="warning")
    console.handle(warning)
    clock.now = 10
    memory = MemoryUse(peak_bytes=1_200_000_000, peak_device_bytes=7_000_000_000, peak_reserved_bytes=7_500_000_000)
    console.handle(replace(step(20, loss=0.25), memory=memory))
    console.handle(warning)
    written = (Path("out/pytorch_lora_weights.safetensors"), Path("out/validation_images"))
    console.handle(RunFinished(step=20, seconds=725, written=written, interrupted=interrupted))
    lines = stream.getvalue().splitlines()[4:]
    assert lines[:6] == [
        f"{'stopped' if interrupted else 'finished'} after step 20, in 12 min 05 s, 8 images/s, mean loss 0.2500,"
        " peak memory 1.2 GB, peak VRAM 7 GB (7.5 GB reserved)",
        "written:",
        "  out/pytorch_lora_weights.safetensors",
        "  out/validation_images",
        "warnings of this run:",
        "  2 images were left out",
    ]
    assert lines[6:] == (["to continue after step 20, run the same command again"] if interrupted else [])


def test_the_memory_of_training_includes_what_came_before_a_stage_within_it() -> None:
    console, _, stream = logged()
    console.handle(TRAINING)
    for first, second in ((900, 300), (300, 800)):
        console.handle(replace(step(1), memory=MemoryUse(peak_bytes=first * 10**6)))
        console.handle(StageStarted(name="validation", total=1, unit="images"))
        console.handle(StageFinished(name="validation", seconds=1, peak_memory_bytes=second * 10**6))
    console.handle(RunFinished(step=1, seconds=1, written=()))
    assert stream.getvalue().splitlines()[-1].endswith("peak memory 900 MB")


def test_a_name_that_the_stream_cannot_show_is_escaped() -> None:
    content = io.BytesIO()
    console = Console(display_for(io.TextIOWrapper(content, encoding="ascii")))
    console.handle(Notice(text="left out: pictüre\udce9.png"))
    assert content.getvalue() == b"left out: pict\\xfcre\\udce9.png\n"


def test_a_stream_that_is_closed_does_not_end_the_run() -> None:
    console, _, stream = logged()
    reporter = Reporter([console])
    stream.close()
    for _ in range(3):
        reporter.handle(Notice(text="still here"))
    reporter.close()


ON_A_TERMINAL = """
import sys, time
from pathlib import Path
from helpers.reporting.console.console import Console, display_for
from helpers.reporting.events import *
from helpers.reporting.reporter import Reporter
from helpers.reporting.progress import stage

reporter = Reporter([Console(display_for(sys.stdout))])
with stage(reporter, "encode [images]", total=8, unit="images") as advance:
    for _ in range(8):
        time.sleep(0.06)
        advance()
reporter.handle(TrainingStarted(first_step=0, total_steps=5, steps_per_epoch=5, images_per_step=2))
for step in range(1, 6):
    time.sleep(0.06)
    reporter.handle(StepFinished(step=step, epoch=0, loss=0.5, learning_rate=1e-4, gradient_norm=1.0, images=2))
with stage(reporter, "draw images", total=1, unit="images") as advance:
    advance()
reporter.handle(Notice(text="careful [now]", level="warning"))
reporter.handle(RunFinished(step=5, seconds=3, written=(Path("out/" + "long_" * 30 + "name.safetensors"),)))
reporter.close()
"""


def run_on_a_terminal(code: str) -> str:
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdout=theirs, stderr=subprocess.STDOUT)
    os.close(theirs)
    received = b""
    try:
        while chunk := os.read(ours, 65536):
            received += chunk
    except OSError:  # how Linux reports that the other end is closed
        pass
    os.close(ours)
    assert process.wait() == 0, received.decode()
    return received.decode()


def test_a_terminal_shows_live_bars_and_lines_that_stay() -> None:
    received = run_on_a_terminal(ON_A_TERMINAL)
    assert "━" in received
    assert re.search(r"\d of 8 images \(\d+ %\)", received)
    assert "step 5 of 5" in received
    assert "\x1b[?25l" not in received, "the cursor stays visible"
    screen = visible_lines(received)
    assert screen[0].startswith("encode [images]: 8 images in 0.")
    assert screen[1] == "training: 5 steps of 2 images, 5 an epoch"
    assert screen[2].startswith("draw images: 1 image in 0.")
    assert screen[3] == "warning: careful [now]"
    assert screen[4].startswith("finished after step 5")
    assert screen[5:7] == ["written:", "  out/" + "long_" * 30 + "name.safetensors"]
    assert not any("━" in line for line in screen), "bars are cleared away in the end"


def visible_lines(received: str) -> list[str]:
    """What a terminal that never wraps would show in the end."""
    lines: list[str] = [""]
    row = 0
    for token in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", received):
        if token == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif token == "\r":
            continue
        elif token.startswith("\x1b["):
            if token.endswith("A"):
                row -= int(token[2:-1])
            elif token.endswith("K"):
                lines[row] = ""
        else:
            lines[row] += token
    return [line.rstrip() for line in lines if line.strip()]


def test_a_log_needs_no_rich() -> None:
    log = "from helpers.reporting.console.console import *; import io, sys; Console(display_for(io.StringIO()))"
    code = f"{log}; sys.exit('rich' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(("level", "shown"), [("info", 2), ("debug", 2), ("warning", 1), ("error", 0)])
def test_a_level_leaves_out_what_is_below_it(level: str, shown: int) -> None:
    stream = io.StringIO()
    console = Console(display_for(stream, level=level))
    console.handle(Notice(text="the disk is nearly full", level="warning"))
    console.handle(Notice(text="3 images were left out"))
    if level in ("warning", "error"):
        console.handle(StageStarted(name="encode", total=1, unit="images"))
        console.handle(StageAdvanced(name="encode", count=1))
        console.handle(StageFinished(name="encode", seconds=0.1, peak_memory_bytes=90_000_000))
    assert len(stream.getvalue().splitlines()) == shown
