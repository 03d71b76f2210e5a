"""The wizard's questions in order: what each asks, which answers it accepts, and going back.

No terminal and no files here: a front end shows a `Prompt` and returns a text, or None to go back.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

from helpers.config.checks.config import check
from helpers.config.option import Option, WrongValue, options_in, read_value, written
from helpers.config.options.launch import LaunchOptions
from helpers.config.parse import ParseResult, RawSetting, read_settings
from helpers.config.train_config import RunConfig, all_options
from helpers.config.wizard.machine import SystemInfo
from helpers.errors import Problem

LAUNCH = "launch"


@cache
def options_by_name() -> Mapping[str, Option]:
    """Every option that an env file may set, those of `train.sh` itself included."""
    return {option.name: option for option in (*all_options(), *options_in(LAUNCH, LaunchOptions))}


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What is known so far, by name of option or question, as texts.

    existing: the settings of the old env file; answers: the answers; machine: what was found out about this machine.
    """

    machine: SystemInfo
    existing: Mapping[str, str] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> str:
        """The answer, else the existing setting, else the option's default; empty for a question without an option."""
        option = options_by_name().get(name)
        default = written(option.default) if option else ""
        return self.answers.get(name, self.existing.get(name, default))

    def knows(self, name: str) -> bool:
        """Whether it is set or answered."""
        return name in self.answers or name in self.existing

    def answered(self, name: str, text: str) -> "Draft":
        """The draft with one more answer."""
        return replace(self, answers={**self.answers, name: text})

    def settings(self) -> dict[str, str]:
        """The options that are set or answered."""
        return {name: text for name, text in {**self.existing, **self.answers}.items() if name in options_by_name()}

    def read(self) -> ParseResult:
        """The settings, parsed by the trainer's own parser."""
        names = ((options_by_name()[name], text) for name, text in self.settings().items())
        return read_settings(
            RawSetting(name=option.name, text=text, spelled=option.env)
            for option, text in names
            if option.group != LAUNCH and (text or option.empty_means)
        )

    def config(self) -> RunConfig:
        """The resulting configuration; invalid settings have their defaults."""
        return self.read().config()

    def problems(self) -> list[Problem]:
        """Every problem that the trainer would report."""
        reading = self.read()
        return [*reading.problems, *check(reading.config(), skip=reading.wrong)]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One answer of a list: its value, its label, and a note."""

    value: str
    label: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question by the name of its option, or by a name of its own.

    why: a sentence or two that help to decide; choices: the answers offered, else the option's own; note: a note on one
    of them; other: the label of an answer that is not among the choices, empty if there is none; when: whether the
    question applies; proposal: the default answer; problem: what is wrong with an answer, for questions without an
    option; blames: other options whose problems count here; shows: a text to show before the question; act: what to do
    with an answer; folder: whether it asks for a folder; stays: whether the existing setting is kept if it is not
    asked; own: whether its name is not an option's.
    """

    name: str
    title: str
    why: Callable[[Draft], str] | str
    choices: Callable[[Draft], Sequence[Choice]] | None = None
    note: Callable[[Draft, str], str] | None = None
    other: str = ""
    when: Callable[[Draft], bool] = lambda draft: True
    proposal: Callable[[Draft], str] | None = None
    problem: Callable[[Draft, str], str] | None = None
    blames: tuple[str, ...] = ()
    shows: Callable[[Draft], str] | None = None
    act: Callable[[Draft], None] | None = None
    folder: bool = False
    stays: bool = False
    own: bool = False


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question to show; `problem` returns what is wrong with an answer, empty if it is valid."""

    name: str
    chapter: str
    progress: str
    title: str
    why: str
    default: str
    choices: tuple[Choice, ...]
    other: str
    shows: str
    folder: bool
    problem: Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """Questions of one topic."""

    title: str
    questions: tuple[Question, ...]


def ask_all(chapters: Sequence[Chapter], *, draft: Draft, ask: Callable[[Prompt], str | None]) -> Draft:
    """Ask every question that applies, in order; None goes back to the one before, with its answer as the default."""
    steps = [(chapter, question) for chapter in chapters for question in chapter.questions]
    history: list[int] = []
    place = 0
    while place < len(steps):
        chapter, question = steps[place]
        now = without_irrelevant(draft, chapters)
        if not is_asked(question, now):
            place += 1
            continue
        text = ask(make_prompt(question, now, chapter=chapter))
        if text is None:
            place = history.pop() if history else place
            continue
        draft = draft.answered(question.name, text)
        if question.act is not None:
            question.act(draft)
        history.append(place)
        place += 1
    return draft


def without_irrelevant(draft: Draft, chapters: Iterable[Chapter]) -> Draft:
    """The draft without settings that no longer apply, such as a rank if no LoRA is trained."""
    questions = [each for chapter in chapters for each in chapter.questions]
    irrelevant = {each.name for each in questions if not each.stays and not each.when(draft)}
    return replace(
        draft,
        existing={name: text for name, text in draft.existing.items() if name not in irrelevant},
        answers={name: text for name, text in draft.answers.items() if name not in irrelevant},
    )


def is_asked(question: Question, draft: Draft) -> bool:
    """Whether to ask: its option exists, applies, and allows more than one value."""
    is_known = question.own or question.name in options_by_name()
    return is_known and question.when(draft) and (bool(question.other) or len(offered(question, draft)) != 1)


def offered(question: Question, draft: Draft) -> tuple[Choice, ...]:
    """The answers to choose from; for an option, only those that it allows."""
    option = options_by_name().get(question.name)
    allowed = _allowed(option) if option else ()
    if question.choices is None:
        return tuple(Choice(value=value) for value in allowed)
    chosen = question.choices(draft)
    return tuple(each for each in chosen if not allowed or not each.value or each.value in allowed)


def _allowed(option: Option) -> tuple[str, ...]:
    """The values of a switch or choice, without those that it refuses."""
    refused = [value for value, _ in option.refused]
    values = ("true", "false") if option.kind is bool else option.choices
    return tuple(value for value in values if value not in refused)


def make_prompt(question: Question, draft: Draft, *, chapter: Chapter) -> Prompt:
    """The question to show for `draft`."""
    choices = offered(question, draft)
    if question.note is not None:
        choices = tuple(replace(each, note=each.note or question.note(draft, each.value)) for each in choices)
    default = draft[question.name]
    known = draft.knows(question.name) and not problem_with(question, draft, text=default)
    if question.proposal is not None and not known:
        default = question.proposal(draft)
    if choices and not question.other and default not in [each.value for each in choices]:
        default = choices[0].value
    asked = [each for each in chapter.questions if is_asked(each, draft)]
    return Prompt(
        name=question.name,
        chapter=chapter.title,
        progress=f"{asked.index(question) + 1} of {len(asked)}",
        title=question.title,
        why=question.why if isinstance(question.why, str) else question.why(draft),
        default=default,
        choices=choices,
        other=question.other,
        shows=question.shows(draft) if question.shows else "",
        folder=question.folder,
        problem=lambda text: problem_with(question, draft, text=text),
    )


def problem_with(question: Question, draft: Draft, *, text: str) -> str:
    """What is wrong with `text` as the answer, and the fix; empty if it is valid."""
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in text):
        return "it has a character that cannot be written to the file; type it again"
    option = options_by_name().get(question.name)
    if option is not None:
        try:
            if text or not option.optional:
                read_value(option, text=text)
        except WrongValue as wrong:
            return f"{wrong.reason}: {wrong.fix}"
        if found := _problem_of(option, draft.answered(question.name, text), blames=question.blames):
            return found
    elif not question.other and (choices := offered(question, draft)) and text not in [each.value for each in choices]:
        return f"use {' or '.join(each.value for each in choices)}"
    return question.problem(draft, text) if question.problem else ""


def _problem_of(option: Option, draft: Draft, *, blames: Iterable[str]) -> str:
    """The problem that the trainer's own checks find in the option; empty if none."""
    if option.group == LAUNCH:
        return ""
    envs = {option.env, *(options_by_name()[name].env for name in blames)}
    for problem in draft.problems():
        if problem.option in envs:
            return f"{problem.reason}: {problem.fix}"
    return ""
