"""The pages made from the option declarations: `train.py --help`, and documentation/OPTIONS.md.

`python -m helpers.config.docs` writes the latter.
"""

import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path

from helpers.config.deprecated_options import OLD_NAMES, DeprecatedOption
from helpers.config.option import KINDS, Option, default_words, options_in, wanted
from helpers.config.options.launch import LaunchOptions
from helpers.config.train_config import RunConfig

PAGE = Path(__file__).resolve().parents[2] / "documentation" / "OPTIONS.md"
COMMAND = "python -m helpers.config.docs"
HELP_WIDTH = 100

OPENING = f"""\
# Every setting

Generated from the declarations in `helpers/config/options/` with `{COMMAND}`.

Each setting has a name in `config/config.env` and a flag: `export LORA_RANK=16` or `bash train.sh --lora_rank=16`. If a
setting is given more than once, the command line wins, then `TRAINER_EXTRA_ARGS`, then the name in the file. For a
switch, `--allow_tf32` is the same as `--allow_tf32=true`. For the dataset file, see [DATALOADER](DATALOADER.md).

`config.env` is a bash script in UTF-8: put values with spaces in quotes, and write `\\$` for a dollar sign. Lines of
which bash would lose a part, such as `export VALIDATION_PROMPT=a cat`, are errors. Numbers without a maximum in the
table are limited to 10⁹.
"""


def reference_page() -> str:
    """Every setting by group, then the old names: replaced, without effect, refused."""
    groups = [(group.name, group.type) for group in fields(RunConfig)]
    titles = [_title(name) for name, _ in groups]
    contents = " · ".join(
        f"[{title}](#{title.lower().replace(' ', '-')})" for title in [*titles, "Launch", "Old names"]
    )
    sections = [_group(name, options=options) for name, options in groups]  # type: ignore[arg-type]
    return "\n".join([OPENING, contents + "\n", *sections, _group("launch", options=LaunchOptions), _old_names()])


def _group(name: str, *, options: type) -> str:
    about = (options.__doc__ or "").partition("\n")[0]
    rows = [_row(option, flag=options is not LaunchOptions) for option in options_in(name, options)]
    return f"## {_title(name)}\n\n{about}\n\n" + _table("setting", "values", "default", "description", rows=rows)


def _row(option: Option, *, flag: bool) -> tuple[str, ...]:
    names = f"`{option.env}`<br>`--{option.name}`" if flag else f"`{option.env}`"
    values = ", ".join(f"`{choice}`" for choice in option.choices) or _without_article(wanted(option))
    by_reason: dict[str, list[str]] = {}
    for value, reason in option.refused:
        by_reason.setdefault(reason, []).append(f"`{value}`")
    refused = "".join(f" Refused: {', '.join(values)} ({reason})." for reason, values in by_reason.items())
    return names, values, default_words(option), option.help + refused


def _without_article(words: str) -> str:
    return words.removeprefix("an ").removeprefix("a ")


def _title(name: str) -> str:
    return "LoRA" if name == "lora" else name.capitalize()


def _old_names() -> str:
    replaced = [old for old in OLD_NAMES if old.stands_for is not None]
    silent = [old for old in OLD_NAMES if old.remark]
    refused = [old for old in OLD_NAMES if old.reason]
    parts = ["## Old names\n", "Names from SimpleTuner's config files of 2024. Replaced:\n"]
    parts.append(_table("name", "now", rows=((_names(old), _now(old)) for old in replaced)))
    parts.append("Accepted without effect; the run reports why:\n")
    parts.append(_table("name", "message", rows=((_names(old), f"{old.remark}.") for old in silent)))
    parts.append("Refused, unless they are off (`false`, `0` or empty):\n")
    parts.append(_table("name", "why", rows=((_names(old), f"{old.reason}.") for old in refused)))
    return "\n".join(parts)


def _now(old: DeprecatedOption) -> str:
    assert old.stands_for is not None
    name, value = old.stands_for
    return f"`{name}={value}`"


def _names(old: DeprecatedOption) -> str:
    return f"`{old.env_name}`, `--{old.name}`"


def _table(*heading: str, rows: Iterable[tuple[str, ...]]) -> str:
    return "".join(f"{line}\n" for line in _lines(heading, rows))


def _lines(heading: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(heading)} |"
    yield "|" + "---|" * len(heading)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def help_page() -> str:
    """Every flag by group: what it does, its values, its default, and its name in config.env."""
    lines = [
        "usage: bash train.sh [--name=value ...]      settings from config/config.env; flags override them",
        "       python train.py --name=value ...      settings from flags only",
        "",
        "For a switch, --allow_tf32 is the same as --allow_tf32=true.",
    ]
    for group in fields(RunConfig):
        assert isinstance(group.type, type)
        lines += ["", (group.type.__doc__ or group.name).partition("\n")[0]]
        for option in options_in(group.name, group.type):
            lines += _help_lines(option)
    return "\n".join(lines) + "\n"


def _help_lines(option: Option) -> list[str]:
    choices = option.choices or (("true", "false") if option.kind is bool else ())
    number = _without_article(KINDS.get(option.kind, "text")).upper()
    values = "| ".join(choices or [number, *option.words])
    default = default_words(option)
    text = f"{option.help} ({'' if option.required else 'default: '}{default}; {option.env})"
    wrapped = textwrap.wrap(text, HELP_WIDTH, initial_indent="        ", subsequent_indent="        ")
    flag = textwrap.wrap(f"--{option.name}={values}", HELP_WIDTH, initial_indent="  ", subsequent_indent="      ")
    return [*(line.replace("| ", "|") for line in flag), *wrapped]


if __name__ == "__main__":
    PAGE.write_text(reference_page(), encoding="utf-8")
