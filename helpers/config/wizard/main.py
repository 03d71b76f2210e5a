"""The wizard of `python configure.py`: from answers to the two files that a run needs."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from helpers.config.env.env_file import read_env_file
from helpers.config.env.translate import env_names, translate
from helpers.config.option import written
from helpers.config.options.launch import LaunchOptions
from helpers.config.wizard.dataset_file import dataset_text, new_file, new_path
from helpers.config.wizard.files import NewFile, env_text, write
from helpers.config.wizard.flow import (
    Chapter,
    Choice,
    Draft,
    Prompt,
    Question,
    ask_all,
    options_by_name,
    without_irrelevant,
)
from helpers.config.wizard.machine import SystemInfo
from helpers.config.wizard.plain import InputEnded, PlainPrompts
from helpers.config.wizard.questions_images import IMAGES
from helpers.config.wizard.questions_run import LENGTH, RUN, VALIDATION, is_on_hub, wants_hub
from helpers.config.wizard.questions_training import LEARNING, MACHINE, MEMORY, REPORTS
from helpers.config.wizard.terminal import Terminal
from helpers.errors import ConfigError, UserError

INTERRUPTED = 130
CALCULATED = re.compile(r"^[^#]*(?<!\\)[$`]", flags=re.MULTILINE)
"""A line whose value bash computes."""

WELCOME = """
# SimpleTuner: a run of your own
Your answers become {path} and the dataset file.
Enter accepts the default. Nothing is written before you have seen all of it."""


class FrontEnd(Protocol):
    """Who asks: a terminal, or plain lines."""

    def show(self, text: str) -> None:
        """Show a text."""
        ...

    def ask(self, question: Prompt) -> str | None:
        """A valid answer, or None to go back."""
        ...


@dataclass(frozen=True, kw_only=True)
class ExistingConfig:
    """An existing env file: settings by option name, other variables, and remarks to show."""

    settings: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def main(machine: SystemInfo) -> int:
    """Ask in the terminal, or read plain lines where there is none; the exit status."""
    name = os.environ.get("ENV", "")
    path = Path("config", name, "config.env")
    front = Terminal() if sys.stdin.isatty() and sys.stdout.isatty() else PlainPrompts(sys.stdin)
    try:
        command = f"ENV={name} bash train.sh" if name else "bash train.sh"
        return configure(path, machine=machine, front=front, command=command)
    except (KeyboardInterrupt, EOFError):
        print("\nCanceled; nothing was written.", file=sys.stderr)
        return INTERRUPTED
    except InputEnded as ended:
        print(f"\nThe input ended before this was answered, so nothing was written: {ended}", file=sys.stderr)
    except UserError as error:
        print(f"\n{error}", file=sys.stderr)
    return 1


def configure(path: Path, *, machine: SystemInfo, front: FrontEnd, command: str) -> int:
    """Ask every question, write the env file `path` and the dataset file, and show the next `command`."""
    before = read_before(path)
    front.show(WELCOME.format(path=path))
    for remark in before.remarks:
        front.show(remark)
    settings = dict(before.settings)
    if not settings and path.parent.name != "config":
        settings["output_dir"] = f"output/{path.parent.name}"
    chapters = (*CHAPTERS, _the_end(path, before=before))
    draft = ask_all(chapters, draft=Draft(machine=machine, existing=settings), ask=front.ask)
    if draft["write"] != "yes":
        front.show("\nNothing was written.")
        return 0
    files = new_files(draft, path, others=before.others)
    backups = write([file for file in files if not file.is_there], now=datetime.now())
    front.show(f"\n{_farewell(draft, files=files, backups=backups, command=command)}")
    return 0


CHAPTERS: tuple[Chapter, ...] = (RUN, IMAGES, LENGTH, VALIDATION, MEMORY, LEARNING, REPORTS, MACHINE)


def read_before(path: Path) -> ExistingConfig:
    """The env file at `path`, as far as it can be read; empty if there is none."""
    if not path.is_file():
        return ExistingConfig()
    try:
        variables = read_env_file(path, known=env_names())
    except ConfigError as error:
        return ExistingConfig(remarks=(f"\n{path} cannot be read, so everything is asked again:\n{error}",))
    translation = translate(variables, file=str(path), arguments=[])
    flags = (word[2:].partition("=") for word in translation.arguments)
    settings = {name: _as_written(name, text, variables) for name, _, text in flags}
    default = LaunchOptions()
    for name, value in vars(translation.launch).items():
        if value != getattr(default, name):
            settings[name] = written(value)
    remarks = [f"\n{path} exists; its settings are the defaults."]
    if translation.problems:
        remarks += ["These settings need a change:", *map(str, translation.problems)]
    if CALCULATED.search(path.read_text(encoding="utf-8", errors="replace")):
        remarks.append("Its $variables and $(commands) are replaced by their current values; the backup keeps them.")
    return ExistingConfig(settings=settings, others=translation.exports, remarks=tuple(remarks))


def _as_written(name: str, text: str, variables: Mapping[str, str]) -> str:
    """A number as the user wrote it, such as 1e-4 for 0.0001, if it is the one in effect."""
    option = options_by_name()[name]
    text_in_file = variables.get(option.env, "")
    try:
        return text_in_file if option.kind is float and float(text_in_file) == float(text) else text
    except ValueError:
        return text


def new_files(draft: Draft, path: Path, *, others: Mapping[str, str]) -> list[NewFile]:
    """The files made from the answers: the env file at `path` and, if one is wanted, the dataset file."""
    final = without_irrelevant(draft, CHAPTERS)
    files = [NewFile(path=path, text=env_text(final, chapters=CHAPTERS, others=others))]
    if new_file(draft):
        files.append(NewFile(path=new_path(draft), text=dataset_text(final)))
    return files


def _the_end(path: Path, *, before: ExistingConfig) -> Chapter:
    """The last question, which first shows what will be written."""

    def shows(draft: Draft) -> str:
        hidden = dict.fromkeys(before.others, "…")
        shown = (f"# {file.path}\n{_settings_of(file)}" for file in new_files(draft, path, others=hidden))
        return "\n\n".join((*shown, *_what_is_wrong(draft)))

    def why(draft: Draft) -> str:
        there = [str(file.path) for file in new_files(draft, path, others=before.others) if file.path.exists()]
        return f"A backup is kept of: {', '.join(there)}." if there else "No file exists yet."

    write_it = Question(
        name="write",
        own=True,
        title="Write this?",
        why=why,
        choices=lambda draft: (
            Choice(value="yes", label="yes, write it"),
            Choice(value="no", label="no, leave everything as it is"),
        ),
        proposal=lambda draft: "yes",
        shows=shows,
    )
    return Chapter(title="The end", questions=(write_it,))


def _settings_of(file: NewFile) -> str:
    """The lines of a file without comments."""
    return "\n".join(line for line in file.text.splitlines() if line and not line.startswith("#"))


def _what_is_wrong(draft: Draft) -> list[str]:
    """What the trainer would still refuse, such as an existing setting that was not asked."""
    return [f"bash train.sh will refuse this:\n{problem}" for problem in without_irrelevant(draft, CHAPTERS).problems()]


def _farewell(draft: Draft, *, files: list[NewFile], backups: list[Path], command: str) -> str:
    lines = [f"Written: {file.path}" for file in files]
    lines += [f"Backup: {backup}" for backup in backups]
    model = draft["pretrained_model_name_or_path"]
    if is_on_hub(draft):
        lines += ["Once, before the first run: accept the license on the hub's page of", f"    {model}"]
    if wants_hub(draft) and not draft.machine.logged_in():
        lines.append("Once, before the first run: hf auth login")
    if "wandb" in draft["report_to"]:
        lines.append("Once, before the first run: wandb login")
    return "\n".join([*lines, "", f"# Next: {command}"])
