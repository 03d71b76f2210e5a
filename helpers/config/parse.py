"""What was said, in whatever place, read against the declarations: values, remarks, and all that is wrong."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

from helpers.config.deprecated_options import OLD_NAMES, DeprecatedOption
from helpers.config.option import Option, WrongValue, read_value
from helpers.config.suggestions import nearest
from helpers.config.train_config import RunConfig, all_options
from helpers.errors import Problem


@dataclass(frozen=True, kw_only=True)
class RawSetting:
    """A setting as somebody said it: the flag's `name` without dashes, the value's text, and how it was spelled."""

    name: str
    text: str
    spelled: str


@dataclass(frozen=True, kw_only=True)
class OptionNames:
    """Every name that may be said on the command line, and what it is."""

    options: dict[str, Option]
    old: dict[str, DeprecatedOption]

    def stands_alone(self, name: str) -> bool:
        """Whether the flag needs no value."""
        option, old = self.options.get(name), self.old.get(name)
        return (option is not None and option.kind is bool) or (old is not None and old.switch)

    def closest(self, name: str) -> str | None:
        """The flag that an unknown one is a slip of, or whose env name it is."""
        env_names = {option.env.lower(): option.name for option in self.options.values()}
        return env_names.get(name.lower()) or nearest(name, (*self.options, *self.old))

    def suggest(self, name: str) -> str:
        """The fix for an unknown flag."""
        meant = self.closest(name)
        return f"did you mean --{meant}?" if meant else "`python train.py --help` lists every flag"


@dataclass(frozen=True, kw_only=True)
class ParseResult:
    """What became of what was said.

    values: by option name, the last that was said of it.
    wrong: the options said wrongly: of a misspelt name the value counts, where it can be read, so that all else is
        checked with it; the others have their defaults.
    remarks: lines worth showing although nothing is wrong.
    """

    values: dict[str, Any] = field(default_factory=dict)
    wrong: set[str] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def config(self) -> RunConfig:
        """The run's options; those that nobody said have their defaults."""
        options = {option.name: option for option in all_options()}
        values = {name: self.values.get(name, option.default) for name, option in options.items()}
        said: dict[str, dict[str, Any]] = {group.name: {} for group in fields(RunConfig)}
        for name, option in options.items():
            said[option.group][name] = values[name]
            if name not in self.values:
                fitting = (new for other, value, new in option.default_with if values[other] == value)
                said[option.group][name] = next(fitting, values[name])
        return RunConfig(**{group.name: group.type(**said[group.name]) for group in fields(RunConfig)})  # type: ignore[operator]


def known_names() -> OptionNames:
    """Every option and every old name, by flag."""
    return OptionNames(options={o.name: o for o in all_options()}, old={old.name: old for old in OLD_NAMES})


def read_settings(said: Iterable[RawSetting], *, meant: Iterable[RawSetting] = ()) -> ParseResult:
    """The values of everything said, the last of each; every problem is listed, none raised.

    `meant` is what was said wrongly, and has been told of, under the names that it was meant for.
    """
    names, reading = known_names(), ParseResult()
    guesses = {each.name: each for each in meant}
    last: dict[str, RawSetting] = {}
    for each in said:
        name = each.name
        if name in names.options:
            last[name] = each
        elif name in names.old:
            _read_old(names.old[name], said=each, last=last, reading=reading)
        else:
            problem = Problem(
                option=each.spelled, value=each.text, reason="there is no such setting", fix=names.suggest(name)
            )
            reading.problems.append(problem)
            guess = names.closest(name) or ""
            guesses[guess] = replace(each, name=guess)
    for name, each in last.items():
        _read_last(names.options[name], said=each, reading=reading)
    for name in guesses.keys() & names.options.keys() - last.keys():
        _read_guess(names.options[name], said=guesses[name], reading=reading)
    for option in names.options.values():
        if option.required and not reading.values.get(option.name) and option.name not in reading.wrong:
            fix = f"set {option.env} in config/config.env, or say --{option.name}=…"
            reading.problems.append(Problem(option=option.env, value="", reason="nobody said it", fix=fix))
    return reading


def _read_last(option: Option, *, said: RawSetting, reading: ParseResult) -> None:
    try:
        value = read_value(option, text=said.text)
    except WrongValue as wrong:
        reading.wrong.add(option.name)
        reading.problems.append(Problem(option=said.spelled, value=said.text, reason=wrong.reason, fix=wrong.fix))
        return
    if value is not None:
        reading.values[option.name] = value


def _read_guess(option: Option, *, said: RawSetting, reading: ParseResult) -> None:
    reading.wrong.add(option.name)
    with suppress(WrongValue):
        reading.values[option.name] = read_value(option, text=said.text)


def _read_old(old: DeprecatedOption, *, said: RawSetting, last: dict[str, RawSetting], reading: ParseResult) -> None:
    text = said.text.strip().lower()
    if old.stands_for is not None:
        name, value = old.stands_for
        if text not in ("false", "0", "no", ""):
            last[name] = RawSetting(name=name, text=value, spelled=said.spelled)
            reading.remarks.append(f"{said.spelled} is now --{name}={value}")
    elif old.harmless is None:
        reading.remarks.append(f"{said.spelled} {old.remark}")
    elif text not in old.harmless:
        reading.problems.append(Problem(option=said.spelled, value=said.text, reason=old.reason, fix=old.fix))
