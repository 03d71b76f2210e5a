"""The page that `train.py --help` shows, made from the declarations."""

import textwrap
from dataclasses import fields

from helpers.config.option import KINDS, Option, default_words, options_in
from helpers.config.train_config import RunConfig

WIDTH = 100


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
            lines += _lines(option)
    return "\n".join(lines) + "\n"


def _lines(option: Option) -> list[str]:
    choices = option.choices or (("true", "false") if option.kind is bool else ())
    values = "| ".join(choices) or "| ".join(
        [KINDS.get(option.kind, "a text").removeprefix("a ").upper(), *option.words]
    )
    default = default_words(option)
    text = f"{option.help} ({'' if option.required else 'default: '}{default}; {option.env})"
    wrapped = textwrap.wrap(text, WIDTH, initial_indent="        ", subsequent_indent="        ")
    flag = textwrap.wrap(f"--{option.name}={values}", WIDTH, initial_indent="  ", subsequent_indent="      ")
    return [*(line.replace("| ", "|") for line in flag), *wrapped]
