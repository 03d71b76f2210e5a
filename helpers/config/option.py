"""How an option is declared: once, as a field of a frozen group, with all that anyone asks of it."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

DECLARATION = "declaration"


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What is known of an option beyond its name, type and default.

    help: one sentence that says what the setting does, and its unit.
    env: the name in `config.env`; empty where it is the flag's name in capitals.
    choices: every value allowed; empty where the type says enough.
    minimum, maximum: the bounds of a number, both included.
    above: a bound of a number that is itself not allowed.
    multiple_of: what a whole number must be a multiple of.
    required: an error where nobody says a value.
    empty_means: whether an empty text is a value like others, rather than the same as saying nothing.
    refused: values that people do say, each with the reason that it is not accepted.
    default_with: other defaults, each with another option's name and the value of that which brings it; the first
        that fits counts.
    """

    help: str
    env: str = ""
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    required: bool = False
    multiple_of: int | None = None
    empty_means: bool = False
    refused: tuple[tuple[str, str], ...] = ()
    default_with: tuple[tuple[str, Any, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Option:
    """A declared option: the field's name is the flag (`--name`) and the attribute of its group."""

    group: str
    name: str
    kind: type
    optional: bool
    default: Any
    declaration: Declaration

    @property
    def env(self) -> str:
        """The option's name in `config.env`."""
        return self.declaration.env or self.name.upper()


def setting(default: Any, *, help: str, **more: Any) -> Any:
    """Declare an option as a dataclass field; `more` are the other fields of `Declaration`."""
    return dataclasses.field(default=default, metadata={DECLARATION: Declaration(help=help, **more)})


def declared(group: str, options: type) -> Iterator[Option]:
    """Each option of the dataclass `options`, in the order written."""
    for field in dataclasses.fields(options):
        optional = not isinstance(field.type, type)
        kind = next(t for t in field.type.__args__ if t is not type(None)) if optional else field.type  # type: ignore[union-attr]
        yield Option(
            group=group,
            name=field.name,
            kind=kind,  # type: ignore[arg-type]
            optional=optional,
            default=field.default,
            declaration=field.metadata[DECLARATION],
        )
