"""The command line of `train.py`, parsed into the options of a run, with all problems at once."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

from helpers.config.checks.config import check
from helpers.config.checks.warnings import warnings
from helpers.config.deprecated_options import OLD_NAMES, DeprecatedOption
from helpers.config.option import FALSE, TRUE, Option, WrongValue, read_value
from helpers.config.suggestions import nearest
from helpers.config.train_config import RunConfig, all_options
from helpers.errors import ConfigError, Problem

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RawSetting:
    """A setting as written: the flag's `name` without dashes, its value as text, and its spelling."""

    name: str
    text: str
    spelled: str


@dataclass(frozen=True, kw_only=True)
class OptionNames:
    """Every name that the command line accepts."""

    options: dict[str, Option]
    old: dict[str, DeprecatedOption]

    def stands_alone(self, name: str) -> bool:
        """Whether the flag needs no value."""
        option, old = self.options.get(name), self.old.get(name)
        return (option is not None and option.kind is bool) or (old is not None and old.switch)

    def closest(self, name: str) -> str | None:
        """The flag that an unknown name most likely means, or whose name in the env file it is."""
        env_names = {option.env.lower(): option.name for option in self.options.values()}
        return env_names.get(name.lower()) or nearest(name, (*self.options, *self.old))

    def suggest(self, name: str) -> str:
        """The fix for an unknown flag."""
        meant = self.closest(name)
        return f"did you mean --{meant}?" if meant else "`python train.py --help` lists every flag"


@dataclass(frozen=True, kw_only=True)
class ParseResult:
    """The parsed settings.

    values: by option name, the last one set.
    wrong: options with an error. A misspelt name counts as the closest one if its value can be parsed, so that the
        other checks see it; the rest have their defaults.
    remarks: lines to show although nothing is wrong.
    """

    values: dict[str, Any] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def config(self) -> RunConfig:
        """The run's options; those not set have their defaults."""
        options = {option.name: option for option in all_options()}
        values = {name: self.values.get(name, option.default) for name, option in options.items()}
        groups: dict[str, dict[str, Any]] = {group.name: {} for group in fields(RunConfig)}
        for name, option in options.items():
            groups[option.group][name] = values[name]
            if name not in self.values:
                fitting = (new for other, value, new in option.default_with if values[other] == value)
                groups[option.group][name] = next(fitting, values[name])
        return RunConfig(**{group.name: group.type(**groups[group.name]) for group in fields(RunConfig)})  # type: ignore[operator]


def known_names() -> OptionNames:
    """Every option and every deprecated name, by flag."""
    return OptionNames(options={o.name: o for o in all_options()}, old={old.name: old for old in OLD_NAMES})


def read_settings(settings: Iterable[RawSetting], *, guessed: Iterable[RawSetting] = ()) -> ParseResult:
    """Parse settings; the last value of each counts. Problems are collected, not raised.

    guessed: settings under misspelt names that were already reported, by the names they most likely mean.
    """
    names, reading = known_names(), ParseResult()
    guesses = {each.name: each for each in guessed}
    last: dict[str, RawSetting] = {}
    for each in settings:
        name = each.name
        if name in names.options:
            last[name] = each
        elif name in names.old:
            _read_old(names.old[name], setting=each, last=last, reading=reading)
        else:
            problem = Problem(
                option=each.spelled, value=each.text, reason="there is no such setting", fix=names.suggest(name)
            )
            reading.problems.append(problem)
            guess = names.closest(name) or ""
            guesses[guess] = replace(each, name=guess)
    for name, each in last.items():
        _read_last(names.options[name], setting=each, reading=reading)
    for name in guesses.keys() & names.options.keys() - last.keys():
        _read_guess(names.options[name], setting=guesses[name], reading=reading)
    for option in names.options.values():
        if option.required and not reading.values.get(option.name) and option.name not in reading.wrong:
            fix = f"set {option.env} in config/config.env, or pass --{option.name}=…"
            reading.problems.append(Problem(option=option.env, value="", reason="not set", fix=fix))
    return reading


def _read_last(option: Option, *, setting: RawSetting, reading: ParseResult) -> None:
    try:
        value = read_value(option, text=setting.text)
    except WrongValue as wrong:
        reading.wrong.add(option.name)
        reading.problems.append(Problem(option=setting.spelled, value=setting.text, reason=wrong.reason, fix=wrong.fix))
        return
    if value is not None:
        reading.values[option.name] = value


def _read_guess(option: Option, *, setting: RawSetting, reading: ParseResult) -> None:
    reading.wrong.add(option.name)
    with suppress(WrongValue):
        reading.values[option.name] = read_value(option, text=setting.text)


def _read_old(old: DeprecatedOption, *, setting: RawSetting, last: dict[str, RawSetting], reading: ParseResult) -> None:
    text = setting.text.strip().lower()
    if old.stands_for is not None:
        name, value = old.stands_for
        if text not in ("false", "0", "no", ""):
            last[name] = RawSetting(name=name, text=value, spelled=setting.spelled)
            reading.remarks.append(f"{setting.spelled} is now --{name}={value}")
    elif old.harmless is None:
        reading.remarks.append(f"{setting.spelled} {old.remark}")
    elif text not in old.harmless:
        reading.problems.append(Problem(option=setting.spelled, value=setting.text, reason=old.reason, fix=old.fix))


def parse_arguments(argv: Sequence[str]) -> RunConfig:
    """The run's options; logs warnings. Raises ConfigError with every problem."""
    reading = read_arguments(argv)
    config = reading.config()
    if problems := problems_of(reading):
        raise ConfigError(problems)
    log_warnings(reading)
    return config


def problems_of(reading: ParseResult) -> list[Problem]:
    """Every problem with the settings and with the resulting options."""
    return [*reading.problems, *check(reading.config(), skip=reading.wrong)]


def log_warnings(reading: ParseResult) -> None:
    """Log remarks and warnings."""
    for line in (*reading.remarks, *warnings(reading.config())):
        log.warning(line)


def read_arguments(argv: Sequence[str]) -> ParseResult:
    """Parse a command line. Problems are collected, not raised."""
    settings, problems = split_arguments(argv)
    reading = read_settings(settings)
    reading.problems[:0] = problems
    return reading


def given_options(argv: Sequence[str]) -> frozenset[str]:
    """The names of the options that a command line sets."""
    return frozenset(read_arguments(argv).values)


def split_arguments(argv: Sequence[str], *, place: str = "") -> tuple[list[RawSetting], list[Problem]]:
    """Split `argv` into flags with values, and words that are neither. place: of the words, for messages."""
    names = known_names()
    settings: list[RawSetting] = []
    problems: list[Problem] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, text = word[2:].partition("=")
        spelled = f"--{name}{place}"
        if not word.startswith("--") or not name:
            problems.append(_stray(word, place=place, before=settings, names=names))
        elif equals:
            settings.append(RawSetting(name=name, text=text, spelled=spelled))
        elif names.stands_alone(name):
            settings.append(RawSetting(name=name, text="true", spelled=spelled))
        elif words and not words[0].startswith("--"):
            settings.append(RawSetting(name=name, text=words.pop(0), spelled=spelled))
        elif name in names.options or name in names.old:
            problems.append(Problem(option=spelled, value="", reason="it needs a value", fix=f"write --{name}=…"))
        else:
            settings.append(RawSetting(name=name, text="", spelled=spelled))
    return settings, problems


def wants_help(argv: Sequence[str]) -> bool:
    """Whether the arguments ask for help."""
    return any(word in ("-h", "--help") for word in argv)


def _stray(word: str, *, place: str, before: list[RawSetting], names: OptionNames) -> Problem:
    if before and names.stands_alone(before[-1].name) and word.lower() in TRUE + FALSE:
        fix = f"did you mean --{before[-1].name}={word}?"
    elif word.startswith("-") and len(word) > 1:
        fix = names.suggest(word.strip("-").partition("=")[0])
    else:
        fix = "write --name=value, with quotes around a value that has spaces"
    return Problem(option=f"{word!r}{place}", value="", reason="it is neither a flag nor a flag's value", fix=fix)
