"""The license of a trained model: its base model's, as that states it, and never a guess."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CARD = "README.md"
FRONT_MATTER = re.compile(r"\A---\s*\n(.*?\n)---\s*$", flags=re.DOTALL | re.MULTILINE)
# `key: value`, the value with or without quotes, or folded onto the next line.
LICENSE_LINE = re.compile(
    r"^(license(?:_name|_link)?):[ \t]*(?:[>|]-?[ \t]*\n[ \t]+)?[\"']?([^\s\"'\[\]]+)[\"']?[ \t]*$", re.MULTILINE
)
UNKNOWN_ID = "unknown"


@dataclass(frozen=True, kw_only=True)
class License:
    """A license as the hub's model cards state it: an identifier and, if that is `other`, a name and a link."""

    identifier: str = UNKNOWN_ID
    name: str = ""
    link: str = ""


def license_of(base_model: str, *, folder: Path | None, known: Mapping[str, Mapping[str, str]]) -> License:
    """The license of a base model: from its own card, else by its hub id; `unknown` if neither states one.

    base_model: a hub id, or the path of a folder or file. folder: where its files are.
    known: the license entries of cards by hub id, for a base whose card was not downloaded with it.
    """
    on_hub = not Path(base_model).expanduser().exists()
    stated = _in_card(folder / CARD) if folder is not None else {}
    if "license" not in stated:
        stated = known.get(base_model, {}) if on_hub else {}
    if "license" not in stated:
        return License()
    link = stated.get("license_link", "")
    if link and "://" not in link:
        link = f"https://huggingface.co/{base_model}/blob/main/{link}" if on_hub else ""
    return License(identifier=stated["license"], name=stated.get("license_name", ""), link=link)


def _in_card(card: Path) -> dict[str, str]:
    try:
        found = FRONT_MATTER.match(card.read_text(encoding="utf-8").replace("\r\n", "\n"))
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(LICENSE_LINE.findall(found[1])) if found else {}
