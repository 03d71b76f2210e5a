"""Writes the env file and the dataset file, both or neither, with backups of existing files."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from helpers.config.option import Option
from helpers.config.wizard.flow import Chapter, Draft, options_by_name
from helpers.errors import ConfigError, Problem
from helpers.files import atomic_file, sync

PLAIN = re.compile(r"[\w./:@%+,=-]+", flags=re.ASCII)
WIDTH = 120
HEADING = """\
# Written by `python configure.py`. Edit it, or run that again: it starts from these settings.
# A setting that is not here has its default; `python train.py --help` lists them all.
"""
SPLICED = ("trainer_extra_args", "debug_extra_args")
"""Flags in one line, which were already read as the settings that they set."""


@dataclass(frozen=True, kw_only=True)
class NewFile:
    """A file to be written."""

    path: Path
    text: str

    @property
    def is_there(self) -> bool:
        """Whether the file already has this content."""
        return self.path.is_file() and self.path.read_bytes() == self.text.encode()


def env_text(draft: Draft, *, chapters: Sequence[Chapter], others: Mapping[str, str]) -> str:
    """The env file of the draft's settings, by chapter; `others` are variables that are not settings."""
    settings = {name: text for name, text in draft.settings().items() if name not in SPLICED}
    lines = [HEADING]
    for chapter in chapters:
        names = [question.name for question in chapter.questions if question.name in settings]
        lines += _section(chapter.title, {name: settings.pop(name) for name in names})
    lines += _section("Other settings that were set before", settings)
    if others:
        lines += ["## Passed on to the environment", ""]
        lines += [f"export {name}={quoted(text)}" for name, text in others.items()] + [""]
    return "\n".join(lines)


def quoted(text: str) -> str:
    """`text` as one word of a shell script."""
    if PLAIN.fullmatch(text):
        return text
    return '"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"'


def _section(title: str, settings: Mapping[str, str]) -> list[str]:
    lines = []
    for name, text in settings.items():
        option = options_by_name()[name]
        if text or _empty_means(option):
            comment = textwrap.wrap(option.help, WIDTH, initial_indent="# ", subsequent_indent="# ")
            lines += [*comment, f"export {option.env}={quoted(text)}"]
    return [f"## {title}", "", *lines, ""] if lines else []


def _empty_means(option: Option) -> bool:
    return option.empty_means and option.default != ""


def write(files: Sequence[NewFile], *, now: datetime) -> list[Path]:
    """Write `files`, all or none if the disk allows it; returns the backups of existing files.

    Raises ConfigError, naming the file, if one cannot be written.
    """
    backups: list[Path] = []
    with ExitStack() as replacements:
        for file in files:
            replacements.enter_context(_replaced(file))
        for path in (file.path for file in files if file.path.is_file()):
            with _problem_with(path):
                backups.append(_back_up(path.resolve(), now=now))
    return backups


@contextmanager
def _replaced(file: NewFile) -> Iterator[None]:
    """Write the file beside its place, which it takes at the end."""
    with _problem_with(file.path), atomic_file(file.path.resolve()) as partial:
        partial.write_bytes(file.text.encode())
        sync(partial)
        yield


@contextmanager
def _problem_with(path: Path) -> Iterator[None]:
    """Raise a ConfigError that names `path` where the system refuses something."""
    try:
        yield
    except OSError as error:
        fix = "allow writing to it, free some space, or choose another output folder"
        reason = f"it cannot be written: {error.strerror}"
        raise ConfigError([Problem(option=str(path), value="", reason=reason, fix=fix)]) from error


def _back_up(path: Path, *, now: datetime) -> Path:
    """A copy of `path` next to it, under a new name."""
    stamp = f"{path.name}.backup-{now:%Y%m%d-%H%M%S}"
    number = 1
    while True:
        backup = path.with_name(stamp if number == 1 else f"{stamp}-{number}")
        try:
            with backup.open("xb") as file:
                file.write(path.read_bytes())
        except FileExistsError:
            number += 1
            continue
        shutil.copymode(path, backup)
        sync(backup)
        return backup
