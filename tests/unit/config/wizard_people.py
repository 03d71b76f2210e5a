"""People who answer the wizard's questions in tests, on machines of several kinds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from helpers.config.env.env_file import read_env_file
from helpers.config.env.gpus import Gpu
from helpers.config.env.launch import translated
from helpers.config.parse import parse_arguments
from helpers.config.train_config import RunConfig
from helpers.config.wizard.flow import Prompt, options_by_name
from helpers.config.wizard.machine import SystemInfo
from helpers.config.wizard.main import configure
from helpers.data.report.preview import preview_folder
from helpers.models.sd3.memory.forecast import forecast

GIGABYTE = 1024**3


def machine(*cards_gigabytes: int, is_mac: bool = False, log_in: Callable[[], None] | None = None) -> SystemInfo:
    """A machine with these graphics cards, of which nobody is logged in at the hub."""
    return SystemInfo(
        gpus=tuple(Gpu(name=f"a card of {size} GB", memory_bytes=size * GIGABYTE) for size in cards_gigabytes),
        is_mac=is_mac,
        look_at=cache(preview_folder),
        memory=forecast,
        logged_in=lambda: False,
        log_in=log_in,
    )


@dataclass
class Person:
    """A front end that says `answers`, by name of question, and takes what is proposed otherwise.

    A list is said one after the other, None going back. What will not do is noted in `refused`, and not said again.
    """

    answers: Mapping[str, str | Sequence[str | None] | None]
    asked: list[Prompt] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        lists = {name: [said] if said is None or isinstance(said, str) else said for name, said in self.answers.items()}
        self._left = {name: list(said) for name, said in lists.items()}

    def show(self, text: str) -> None:
        self.told.append(text)

    def ask(self, question: Prompt) -> str | None:
        self.asked.append(question)
        while self._left.get(question.name):
            text = self._left[question.name].pop(0)
            problem = question.problem(text) if text is not None else ""
            if not problem:
                return text
            self.refused[question.name] = problem
        problem = question.problem(question.default)
        assert not problem, f"{question.name}: what is proposed ({question.default!r}) will not do: {problem}"
        return question.default

    def question(self, name: str) -> Prompt:
        """The question as it was last asked."""
        return [question for question in self.asked if question.name == name][-1]

    @property
    def names(self) -> list[str]:
        return [question.name for question in self.asked]


def folder_of_images(folder: Path, *sizes: tuple[int, int], texts: int = 0, name: str = "a red barn {}") -> Path:
    """A folder with an image of each size, of which the first ones have text files."""
    from PIL import Image

    folder.mkdir(parents=True)
    for number, size in enumerate(sizes):
        path = folder / f"{name.format(number)}.png"
        Image.new("RGB", size).save(path)
        if number < texts:
            path.with_suffix(".txt").write_text("a barn")
    return folder


def wizard(answers: dict, *, cards: tuple[int, ...] = (), is_mac: bool = False, env: str = "") -> Person:
    """What a person who gives these answers sees; the files are written."""
    person = Person({"image_folder": "barns", **answers})
    status = configure(
        Path("config", env, "config.env"), machine=machine(*cards, is_mac=is_mac), front=person, command="go"
    )
    assert status == 0
    return person


def run_of(env: str = "") -> RunConfig:
    """The run that train.sh would start from what was written."""
    return parse_arguments(translated(Path("config", env, "config.env"), flags=[]).arguments)


def written_env(env: str = "") -> dict[str, str]:
    return read_env_file(Path("config", env, "config.env"), known=[option.env for option in options_by_name().values()])
