"""From the variables of an env file and the arguments of `train.sh` to the flags of `train.py`."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from helpers.config.deprecated_options import OLD_NAMES
from helpers.config.env.accelerate_file import EXTRA_ARGS, problems_with_named_file
from helpers.config.option import WrongValue, options_in, read_value, written
from helpers.config.options.launch import LaunchOptions
from helpers.config.parse import ParseResult, RawSetting, known_names, problems_of, read_settings, split_arguments
from helpers.config.suggestions import nearest
from helpers.config.train_config import all_options
from helpers.errors import Problem

EXTRA = ("DEBUG_EXTRA_ARGS", "TRAINER_EXTRA_ARGS")
"""The names whose values are flags; the later one wins."""


@dataclass(frozen=True, kw_only=True)
class Translation:
    """A translated env file.

    arguments: flags of `train.py`, each option once.
    exports: variables that are not settings, for the trainer's environment.
    reading: the options' values.
    """

    arguments: tuple[str, ...]
    launch: LaunchOptions = field(default_factory=LaunchOptions)
    exports: Mapping[str, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    reading: ParseResult = field(default_factory=ParseResult)


@dataclass(frozen=True, kw_only=True)
class _Sorted:
    """The variables of an env file, by kind."""

    settings: list[RawSetting] = field(default_factory=list)
    guessed: list[RawSetting] = field(default_factory=list)
    launch: dict[str, str] = field(default_factory=dict)
    exports: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def env_names() -> tuple[str, ...]:
    """Every name that an env file may set."""
    options = [option.env for option in (*all_options(), *options_in("launch", LaunchOptions))]
    return (*options, *(old.env_name for old in OLD_NAMES))


def translate(
    variables: Mapping[str, str], *, file: str, arguments: Sequence[str], attempts: Mapping[str, str] | None = None
) -> Translation:
    """The flags for `variables`, set by `file`, and the command line's `arguments`, which win.

    attempts: what lines of the file that failed seem to set. Every problem is listed, none raised.
    """
    sorted_ = _sort(variables, file=file)
    options = {option.env: option.name for option in all_options()}
    tried = [
        RawSetting(name=options[env], text=text, spelled=env)
        for env, text in (attempts or {}).items()
        if env in options
    ]
    launch = _launch_options(sorted_, file=file)
    extra: list[RawSetting] = []
    problems = list(sorted_.problems)
    for name in EXTRA:
        flags = _split(getattr(launch, name.lower()), name=name, problems=problems)
        given, wrong = split_arguments(flags, place=f" in {name}")
        extra += given
        problems += wrong
    problems += problems_with_named_file(_split(launch.accelerate_extra_args, name=EXTRA_ARGS, problems=problems))
    typed, wrong = split_arguments(arguments)
    reading = read_settings([*sorted_.settings, *extra, *typed], guessed=[*tried, *sorted_.guessed])
    problems += [*wrong, *problems_of(reading)]
    remarks = [*_overridden(sorted_.settings, extra=extra), *reading.remarks]
    if sorted_.exports:
        names = ", ".join(sorted_.exports)
        remarks.append(f"{file} also sets {names}: not settings of this program, passed on to the environment")
    return Translation(
        arguments=tuple(f"--{name}={written(value)}" for name, value in reading.values.items()),
        launch=launch,
        exports=sorted_.exports,
        remarks=tuple(remarks),
        problems=tuple(problems),
        reading=reading,
    )


def _sort(variables: Mapping[str, str], *, file: str) -> _Sorted:
    options = {option.env: option for option in all_options()}
    launch = {option.env: option.name for option in options_in("launch", LaunchOptions)}
    old = {each.env_name: each.name for each in OLD_NAMES}
    found = _Sorted()
    for name, text in variables.items():
        spelled = f"{name} in {file}"
        if name in options:
            if text or options[name].empty_means:
                found.settings.append(RawSetting(name=options[name].name, text=text, spelled=spelled))
        elif name in launch:
            if text:
                found.launch[launch[name]] = text
        elif name in old:
            if text:
                found.settings.append(RawSetting(name=old[name], text=text, spelled=spelled))
        elif meant := _meant(name):
            fix = f"did you mean {meant}?"
            found.problems.append(Problem(option=spelled, value=text, reason="there is no such setting", fix=fix))
            if meant in options:
                found.guessed.append(RawSetting(name=options[meant].name, text=text, spelled=spelled))
        else:
            found.exports[name] = text
    return found


def _meant(name: str) -> str | None:
    """The setting that a name most likely means; a known name with a suffix is the user's own variable."""
    known = env_names()
    flags = {option.name: option.env for option in all_options()}
    if name.lower() in flags:
        return flags[name.lower()]
    if any(name.startswith(each) and (name[len(each)] == "_" or name[len(each) :].isdecimal()) for each in known):
        return None
    return nearest(name, known)


def _launch_options(sorted_: _Sorted, *, file: str) -> LaunchOptions:
    values: dict[str, object] = {}
    for option in options_in("launch", LaunchOptions):
        text = sorted_.launch.get(option.name, "")
        if not text:
            continue
        try:
            values[option.name] = read_value(option, text=text.lower() if option.choices else text)
        except WrongValue as wrong:
            problem = Problem(option=f"{option.env} in {file}", value=text, reason=wrong.reason, fix=wrong.fix)
            sorted_.problems.append(problem)
    return LaunchOptions(**values)  # type: ignore[arg-type]


def _split(text: str, *, name: str, problems: list[Problem]) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        reason = f"it cannot be split into arguments: {str(error).lower()}"
        problems.append(Problem(option=name, value=text, reason=reason, fix="close every quote that you open"))
        return []


def _overridden(settings: Iterable[RawSetting], *, extra: Iterable[RawSetting]) -> list[str]:
    """A line for each option that the extra arguments set to another value than the file."""
    named = {each.name: each for each in settings}
    options, old = known_names().options, known_names().old
    lines: list[str] = []
    for each in extra:
        replaced = old[each.name].stands_for if each.name in old else None
        name, text = replaced or (each.name, each.text)
        if name in named and name in options and _differ(named[name].text, text, name=name):
            lines.append(f"{each.spelled} sets {text}, which overrides {named[name].spelled} ({named[name].text})")
    return lines


def _differ(one: str, other: str, *, name: str) -> bool:
    option = known_names().options[name]
    try:
        return read_value(option, text=one) != read_value(option, text=other)
    except WrongValue:
        return True
