"""`python configure.py` in a real pseudo-terminal, driven by its keys, and then the run that it wrote."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from tests.runs.harness import REPOSITORY, draw_set

ENTER, ESCAPE, DOWN, UP, CLEAR = "\r", "\x1b", "\x1b[B", "\x1b[A", "\x15"
CTRL_C, CTRL_D = "\x03", "\x04"
ROWS, COLUMNS = 24, 80
READY = "ctrl-c quit"
TYPED_INSTEAD = "   enter accept"
"""The keys of a text that is typed in the place of a list, under the same title."""

SECONDS = 120


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The program in a folder of its own, whose config may be written to, with pictures beside it."""
    clone = tmp_path / "clone"
    (clone / "config").mkdir(parents=True)
    for name in ("helpers", "install", "configure.py", "train.py", "train.sh"):
        (clone / name).symlink_to(REPOSITORY / name)
    draw_set(clone / "colors")
    return clone


class Keyboard:
    """A person at a terminal of 24 lines of 80 letters."""

    def __init__(self, clone: Path) -> None:
        self.child = pexpect.spawn(
            sys.executable,
            [str(clone / "configure.py")],
            cwd=str(clone),
            env={**environment(clone), "TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1"},
            dimensions=(ROWS, COLUMNS),
            timeout=SECONDS,
            encoding="utf-8",
        )

    def press(self, title: str, *keys: str) -> None:
        """Wait for a question, then press keys one after the other."""
        self.child.expect_exact(title)
        self.child.expect_exact(READY)
        for key in keys:
            self.child.send(key)

    def type(self, title: str, text: str) -> None:
        """Wait for a question, and put `text` in the place of what is proposed."""
        self.press(title, CLEAR, text, ENTER)

    def ended(self) -> tuple[str, int | None]:
        """What is on the screen after the last question, and the exit status."""
        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.before or "", self.child.exitstatus


@pytest.fixture
def keyboard(clone: Path) -> Iterator[Keyboard]:
    keyboard = Keyboard(clone)
    yield keyboard
    keyboard.child.close(force=True)


def environment(clone: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "ENV"}
    return {**kept, "HF_HOME": str(clone / "hf"), "VENV_PATH": sys.prefix, "OMP_NUM_THREADS": "1"}


def test_answers_by_keys_become_a_run_of_two_steps(clone: Path, keyboard: Keyboard, tiny_pipeline: Path) -> None:
    keyboard.type("Where should the results go?", "it's ours")
    keyboard.press("What do you want to train?", ENTER)
    keyboard.press("Which base model?", UP, ENTER)  # past the first is the last: another
    keyboard.type(TYPED_INSTEAD, "no/such/model/here")
    keyboard.type("there is no such folder", str(tiny_pipeline))
    keyboard.press("Which type of adapter?", ENTER)
    keyboard.press("Which LoRA rank?", ENTER)
    keyboard.press("Which layers should the LoRA train?", ESCAPE)
    keyboard.press("Which LoRA rank?", UP, ENTER)
    keyboard.press("Which layers should the LoRA train?", DOWN, ENTER)
    keyboard.press("Use DoRA?", ENTER)
    keyboard.type("Which folder holds your images?", "colors")
    keyboard.press("Which training resolution?", DOWN, ENTER)
    keyboard.type(TYPED_INSTEAD, "0.005")
    for title in (
        "How should images be cropped?",
        "Where do the captions come from?",
        "How many repeats per epoch?",
        "encoded images",
    ):
        keyboard.press(title, ENTER)
    keyboard.press("Where should encoded captions be cached?", ENTER)
    keyboard.press("Set the length in steps", ENTER)
    keyboard.type("How many steps?", "2")
    write_the_rest_as_proposed(keyboard)
    said, status = keyboard.ended()
    assert status == 0 and "bash train.sh" in said, said
    finished = subprocess.run(
        ["bash", clone / "train.sh", "--torch_num_threads=1", "--mixed_precision=no"],
        env=environment(clone),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert (clone / "it's ours" / "pytorch_lora_weights.safetensors").is_file()
    env = (clone / "config" / "config.env").read_text()
    assert "export LORA_RANK=8\n" in env and "export LORA_TARGET=image-attention\n" in env


def write_the_rest_as_proposed(keyboard: Keyboard) -> None:
    """Take what is proposed up to the last question, whichever options there are by now."""
    at_the_end = False
    while not at_the_end:
        at_the_end = keyboard.child.expect_exact(["Write this?", READY]) == 0
        if at_the_end:
            keyboard.child.expect_exact(READY)
        keyboard.child.send(ENTER)


@pytest.mark.parametrize("keys", [(ENTER, CTRL_C), (CLEAR, CTRL_D)], ids=["ctrl-c at a list", "ctrl-d at a text"])
def test_leaving_leaves_everything_as_it_was(keys: tuple[str, ...], clone: Path, keyboard: Keyboard) -> None:
    keyboard.press("Where should the results go?", keys[0])
    if keys[0] == ENTER:
        keyboard.press("What do you want to train?")
    keyboard.child.send(keys[1])
    said, status = keyboard.ended()
    assert status == 130
    assert "nothing was written" in said and "Traceback" not in said
    assert sorted(path.name for path in (clone / "config").iterdir()) == []
    assert not (clone / "output").exists()


def plain(clone: Path, *lines: str, flags: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """What comes of answers on standard input, where there is no terminal."""
    return subprocess.run(
        [sys.executable, *flags, clone / "configure.py"],
        input="".join(f"{line}\n" for line in lines),
        env={**environment(clone), "ENV": "plain"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_plain_lines_are_answers(clone: Path) -> None:
    """Numbers and names of a list, a wrong one corrected, `<` back, `-` for nothing, empty for what is proposed."""
    start = ("", "", "SD3 medium", "", "5", "<", "many", "32", "", "")
    finished = plain(clone, *start, "colors", *[""] * 60)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "many is not valid: it is not an integer" in finished.stdout
    assert finished.stdout.rstrip().endswith("ENV=plain bash train.sh")
    env = (clone / "config" / "plain" / "config.env").read_text()
    assert "export LORA_RANK=32\n" in env
    assert "export MODEL_NAME=stabilityai/stable-diffusion-3-medium-diffusers\n" in env
    assert (clone / "output" / "plain" / "multidatabackend.json").is_file()
    with (clone / "config" / "plain" / "config.env").open("a") as file:
        file.write('export VALIDATION_PROMPT="a red square"\n')
    answers = {"Which validation prompt?": "-"}
    again = plain(clone, *answered(finished.stdout, answers), *[""] * 60)
    assert again.returncode == 0
    assert "VALIDATION_PROMPT" not in (clone / "config" / "plain" / "config.env").read_text()


def answered(asked: str, answers: dict[str, str]) -> list[str]:
    """An empty line for every question that was asked before, but for those of `answers`; a dataset file is kept."""
    titles = re.findall(r"^\[.*?, \d+ of \d+\] (.*)$", asked, flags=re.MULTILINE)
    kept = [title for title in dict.fromkeys(titles) if title not in IMAGES_ASKED]
    place = kept.index(next(title for title in kept if title.startswith("Set the length")))
    kept.insert(place, "the dataset file")
    return [next((text for start, text in answers.items() if title.startswith(start)), "") for title in kept]


IMAGES_ASKED = (
    "Which folder holds your images?",
    "Which training resolution?",
    "How should images be cropped?",
    "Some images are less than half that size. What to do with them?",
    "Where do the captions come from?",
    "How many repeats per epoch?",
    "Where should encoded images be cached?",
    "Where should encoded captions be cached?",
)


def test_lines_that_end_too_early_write_nothing_and_start_no_torch(clone: Path) -> None:
    finished = plain(clone, "somewhere", flags=("-X", "importtime"))
    assert finished.returncode == 1
    assert "nothing was written: What do you want to train?" in finished.stderr
    assert list((clone / "config").iterdir()) == []
    imported = re.findall(r"\| +(\S+)$", finished.stderr, flags=re.MULTILINE)
    assert "helpers.config.wizard.main" in imported
    assert not {"torch", "diffusers", "transformers", "PIL", "questionary", "huggingface_hub"} & set(imported)
