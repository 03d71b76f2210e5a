"""From a text to an option's value, or to the reason that it cannot be one."""

import math
from typing import Any

from helpers.config.option import Option
from helpers.config.suggestions import did_you_mean

TRUE = ("true", "1", "yes")
FALSE = ("false", "0", "no")
KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


class WrongValue(Exception):
    """A text that is no value of its option; says why, and the fix."""

    def __init__(self, reason: str, *, fix: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.fix = fix


def read_value(option: Option, *, text: str) -> Any:
    """The value that `text` stands for. Raises WrongValue where it is none."""
    declaration = option.declaration
    if not text and not declaration.empty_means:
        if option.optional:
            return None
        raise WrongValue("it is empty", fix=f"say {wanted(option)}, or leave it out")
    value = _of_kind(option, text=text)
    said = str(value).lower() if option.kind is bool else text
    for refused, reason in declaration.refused:
        if said == refused:
            raise WrongValue(reason, fix=f"say {wanted(option)}")
    if declaration.choices and value not in declaration.choices:
        fix = did_you_mean(text, declaration.choices, otherwise=f"say {wanted(option)}")
        raise WrongValue("there is no such choice", fix=fix)
    if isinstance(value, int | float) and not isinstance(value, bool) and not _within(option, value):
        raise WrongValue(f"it must be {wanted(option)}", fix=f"say {wanted(option)}")
    return value


def written(value: Any) -> str:
    """`value` as a text that `read_value` reads as the same."""
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def default_words(option: Option) -> str:
    """In words, the value that the option has where nobody says one."""
    if option.declaration.required:
        return "required"
    bringing: dict[tuple[Any, str], list[str]] = {}
    for name, said, value in option.declaration.default_with:
        bringing.setdefault((value, name), []).append(written(said))
    others = [f"{written(value)} with {name}={', '.join(said)}" for (value, name), said in bringing.items()]
    return "; ".join([written(option.default) or "none", *others])


def wanted(option: Option) -> str:
    """In words, the values that the option takes."""
    declaration = option.declaration
    if declaration.choices:
        return " or ".join(filter(None, [", ".join(declaration.choices[:-1]), declaration.choices[-1]]))
    if option.kind is bool and any(text == "false" for text, _ in declaration.refused):
        return "true"
    words = KINDS.get(option.kind, "a text")
    if declaration.above is not None:
        words += f" above {declaration.above:g}"
    if declaration.minimum is not None and declaration.maximum is not None:
        words += f" from {declaration.minimum:g} to {declaration.maximum:g}"
    elif declaration.minimum is not None:
        words += f" of at least {declaration.minimum:g}"
    if declaration.multiple_of is not None:
        words += f", a multiple of {declaration.multiple_of}"
    return words


def _of_kind(option: Option, *, text: str) -> Any:
    if option.kind is str:
        return text
    if option.kind is bool:
        if text.lower() in TRUE + FALSE:
            return text.lower() in TRUE
    else:
        try:
            value = option.kind(text)
        except ValueError:
            value = math.nan
        if math.isfinite(value) and "_" not in text:
            return value
    raise WrongValue(f"it is not {KINDS[option.kind]}", fix=f"say {wanted(option)}")


def _within(option: Option, value: float) -> bool:
    declaration = option.declaration
    return (
        (declaration.minimum is None or value >= declaration.minimum)
        and (declaration.maximum is None or value <= declaration.maximum)
        and (declaration.above is None or value > declaration.above)
        and (declaration.multiple_of is None or value % declaration.multiple_of == 0)
    )
