"""From the command line of `train.py` to the run's options, or to everything wrong with it at once."""

import logging
from collections.abc import Sequence

from helpers.config.checks.config import check
from helpers.config.checks.warnings import warnings
from helpers.config.option import FALSE, TRUE
from helpers.config.parse import OptionNames, ParseResult, RawSetting, known_names, read_settings
from helpers.config.train_config import RunConfig
from helpers.errors import ConfigError, Problem

log = logging.getLogger(__name__)


def parse_arguments(argv: Sequence[str]) -> RunConfig:
    """The run's options. Raises ConfigError with every problem; remarks that stop nothing are logged."""
    reading = read_arguments(argv)
    config = reading.config()
    if problems := problems_of(reading):
        raise ConfigError(problems)
    log_warnings(reading)
    return config


def problems_of(reading: ParseResult) -> list[Problem]:
    """Everything wrong with what was said, and with the options that it comes to."""
    return [*reading.problems, *check(reading.config(), unless=reading.wrong)]


def log_warnings(reading: ParseResult) -> None:
    """Log the lines that stop nothing."""
    for line in (*reading.remarks, *warnings(reading.config())):
        log.warning(line)


def read_arguments(argv: Sequence[str]) -> ParseResult:
    """What the words of a command line say; every problem is listed, none raised."""
    said, problems = split_arguments(argv)
    reading = read_settings(said)
    reading.problems[:0] = problems
    return reading


def given_options(argv: Sequence[str]) -> frozenset[str]:
    """The names of the options that a command line sets."""
    return frozenset(read_arguments(argv).values)


def split_arguments(argv: Sequence[str], *, place: str = "") -> tuple[list[RawSetting], list[Problem]]:
    """The flags and values in `argv`, and the words that are neither; `place` says where the words stood."""
    names = known_names()
    said: list[RawSetting] = []
    problems: list[Problem] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, text = word[2:].partition("=")
        spelled = f"--{name}{place}"
        if not word.startswith("--") or not name:
            problems.append(_stray(word, place=place, before=said, names=names))
        elif equals:
            said.append(RawSetting(name=name, text=text, spelled=spelled))
        elif names.stands_alone(name):
            said.append(RawSetting(name=name, text="true", spelled=spelled))
        elif words and not words[0].startswith("--"):
            said.append(RawSetting(name=name, text=words.pop(0), spelled=spelled))
        elif name in names.options or name in names.old:
            problems.append(Problem(option=spelled, value="", reason="it needs a value", fix=f"write --{name}=…"))
        else:
            said.append(RawSetting(name=name, text="", spelled=spelled))
    return said, problems


def wants_help(argv: Sequence[str]) -> bool:
    """Whether the page of all flags is asked for."""
    return any(word in ("-h", "--help") for word in argv)


def _stray(word: str, *, place: str, before: list[RawSetting], names: OptionNames) -> Problem:
    if before and names.stands_alone(before[-1].name) and word.lower() in TRUE + FALSE:
        fix = f"did you mean --{before[-1].name}={word}?"
    elif word.startswith("-") and len(word) > 1:
        fix = names.suggest(word.strip("-").partition("=")[0])
    else:
        fix = "write --name=value, with quotes around a value that has spaces"
    return Problem(option=f"{word!r}{place}", value="", reason="it is neither a flag nor a flag's value", fix=fix)
