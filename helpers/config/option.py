"""Options, each declared once as a field of a frozen group with everything that the program needs to know about it."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import NoneType
from typing import Any, get_args

from helpers.config.suggestions import did_you_mean

SPEC = "option"
LATENTS, EMBEDDINGS = "latents", "embeddings"
ENCODED_AGAIN: dict[tuple[str, ...], str] = {
    (LATENTS,): "affected images are encoded again; latents of the other setting stay in the cache",
    (EMBEDDINGS,): "affected captions are encoded again; embeddings of the other setting stay in the cache",
}
TRUE = ("true", "1", "yes")
FALSE = ("false", "0", "no")
MAX_NUMBER = 10**9
"""The upper bound of every number that declares no other: what fits is computed with, without an overflow."""

MAX_SEED = 2**62
"""Seeds are added to, and must still fit into 63 bits."""

MAX_STEPS = 1000
"""Denoising steps: as many as the noise levels that SD3 was trained with."""

MAX_BATCH = 10_000
MAX_THREADS = 4096
MAX_RANK = 8192
"""Above the size of every layer."""

KINDS = {int: "an integer", float: "a number", bool: "true or false"}


class OnResume(StrEnum):
    """What happens if a checkpoint was saved with another value."""

    REFUSE = "refuse"
    """The checkpoint cannot be resumed: its weights, optimizer state or position would mean something else."""
    ANNOUNCE = "announce"
    """The run resumes with the new value, and reports the change."""
    IGNORE = "ignore"
    """Nothing that is trained depends on it."""


@dataclass(frozen=True, kw_only=True)
class ChangeRule:
    """What a changed value of a setting or a dataset key means.

    invalidates: what is encoded again, `LATENTS` or `EMBEDDINGS`. effect: a sentence, if these two are not enough.
    """

    on_resume: OnResume
    invalidates: tuple[str, ...] = ()
    effect: str = ""

    def describe(self) -> str:
        """What follows from the change, as one sentence."""
        if self.on_resume is OnResume.REFUSE:
            return "checkpoints saved with the other value cannot be resumed with this one"
        if self.effect or self.invalidates:
            return self.effect or ENCODED_AGAIN[self.invalidates]
        ignored = self.on_resume is OnResume.IGNORE
        return "what is trained does not change" if ignored else "training continues with the new value"


@dataclass(frozen=True, kw_only=True)
class Option:
    """A declared option: the field's name is the flag (`--name`) and the attribute of its group.

    help: one sentence that says what the setting does, and its unit.
    on_change: what a changed value means for a run that resumes.
    env: the name in `config.env`.
    choices: the allowed values; empty if the type is enough. words: texts allowed besides a number.
    minimum, maximum: the bounds of a number, both included; without a maximum it is `MAX_NUMBER`. above: a bound that
        is itself not allowed.
    multiple_of: what an integer must be a multiple of.
    required: whether it is an error if it is not set.
    empty_means: whether an empty text is a value, rather than the same as not set.
    refused: values that are not accepted, each with the reason.
    default_with: other defaults: another option's name, the value of that option, and the default with it. The first
        match counts.
    requires: another option's name and the values of it with which this option has an effect.
    unrecorded: of an option whose default has changed, the value of a record without one; if the option is not set, a
        resumed run keeps its checkpoint's value.
    publish: whether the value is written to the header of exported weights and to the model card.
    """

    group: str
    name: str
    kind: type
    optional: bool
    default: Any
    help: str
    on_change: ChangeRule
    env: str
    choices: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    required: bool = False
    multiple_of: int | None = None
    empty_means: bool = False
    refused: tuple[tuple[str, str], ...] = ()
    default_with: tuple[tuple[str, Any, Any], ...] = ()
    requires: tuple[str, tuple[Any, ...]] | None = None
    unrecorded: Any = None
    publish: bool = True


def option(
    default: Any,
    *,
    help: str,
    on_resume: OnResume,
    invalidates: tuple[str, ...] = (),
    effect: str = "",
    env: str = "",
    **more: Any,
) -> Any:
    """Declare an option as a dataclass field; `more` are the other fields of `Option`."""
    on_change = ChangeRule(on_resume=on_resume, invalidates=invalidates, effect=effect)
    return dataclasses.field(
        default=default, metadata={SPEC: {"help": help, "on_change": on_change, "env": env, **more}}
    )


def options_in(group: str, options: type) -> Iterator[Option]:
    """Each option of the dataclass `options`, in the order written."""
    for field in dataclasses.fields(options):
        types: tuple[Any, ...] = get_args(field.type) or (field.type,)
        spec = field.metadata[SPEC]
        yield Option(
            group=group,
            name=field.name,
            kind=next(each for each in types if each is not NoneType),
            optional=NoneType in types,
            default=field.default,
            **{**spec, "env": spec["env"] or field.name.upper()},
        )


class WrongValue(Exception):
    """A text that is not a value of its option, with the reason and the fix."""

    def __init__(self, reason: str, *, fix: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


def read_value(option: Option, *, text: str) -> Any:
    """The value that `text` stands for. Raises WrongValue if there is none."""
    if not text and not option.empty_means:
        if option.optional:
            return None
        raise WrongValue("it is empty", fix=f"use {wanted(option)}, or leave it out")
    value = _of_kind(option, text=text)
    given = str(value).lower() if option.kind is bool else text
    for refused, reason in option.refused:
        if given == refused:
            raise WrongValue(reason, fix=f"use {wanted(option)}")
    if option.choices and value not in option.choices:
        fix = did_you_mean(text, option.choices, otherwise=f"use {wanted(option)}")
        raise WrongValue("not an allowed value", fix=fix)
    if isinstance(value, int | float) and not isinstance(value, bool) and not _within(option, value):
        limit = "" if abs(value) <= MAX_NUMBER or option.maximum is not None else f", at most {MAX_NUMBER}"
        raise WrongValue(f"it must be {wanted(option)}{limit}", fix=f"use {wanted(option)}{limit}")
    return value


def recorded(option: Option, record: Mapping[str, Mapping[str, Any]], *, otherwise: Any) -> Any:
    """The value of `option` in a record by group and name; `otherwise` where nothing can be known of it."""
    if option.unrecorded is None or not record:
        return record.get(option.group, {}).get(option.name, otherwise)
    return record.get(option.group, {}).get(option.name) or option.unrecorded


def written(value: Any) -> str:
    """`value` as the text that `read_value` turns into it again."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def default_words(option: Option) -> str:
    """The default of the option, in words."""
    if option.required:
        return "required"
    by_default: dict[tuple[Any, str], list[str]] = {}
    for name, other, value in option.default_with:
        by_default.setdefault((value, name), []).append(written(other))
    others = [f"{written(value)} with {name}={', '.join(values)}" for (value, name), values in by_default.items()]
    return "; ".join([written(option.default) or "none", *others])


def wanted(option: Option) -> str:
    """The allowed values, in words."""
    if option.choices:
        return " or ".join(filter(None, [", ".join(option.choices[:-1]), option.choices[-1]]))
    if option.kind is bool and any(text == "false" for text, _ in option.refused):
        return "true"
    words = KINDS.get(option.kind, "text")
    if option.above is not None:
        words += f" above {option.above:g}"
    if option.minimum is not None and option.maximum is not None:
        words += f" from {_digits(option.minimum)} to {_digits(option.maximum)}"
    elif option.minimum is not None:
        words += f" of at least {option.minimum:g}"
    if option.multiple_of is not None:
        words += f", a multiple of {option.multiple_of}"
    return " or ".join([", ".join([words, *option.words[:-1]]), *option.words[-1:]])


def _digits(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def _of_kind(option: Option, *, text: str) -> Any:
    if option.kind is str or text in option.words:
        return text
    if option.kind is bool:
        if text.lower() in TRUE + FALSE:
            return text.lower() in TRUE
    else:
        try:
            value = option.kind(text)
        except ValueError:
            value = math.nan
        if (isinstance(value, int) or math.isfinite(value)) and "_" not in text:
            return value
    raise WrongValue(f"it is not {KINDS[option.kind]}", fix=f"use {wanted(option)}")


def _within(option: Option, value: float) -> bool:
    return (
        (-MAX_NUMBER if option.minimum is None else option.minimum) <= value
        and value <= (MAX_NUMBER if option.maximum is None else option.maximum)
        and (option.above is None or value > option.above)
        and (option.multiple_of is None or value % option.multiple_of == 0)
    )
