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


COMMUNITY = "stabilityai-ai-community"
STABILITY = "https://huggingface.co/stabilityai"


def _community(repository: str) -> License:
    return License(identifier="other", name=COMMUNITY, link=f"{STABILITY}/{repository}/blob/main/LICENSE.md")


# From the models' cards on the hub, for models whose card was not downloaded with them.
KNOWN: Mapping[str, License] = {
    "stabilityai/stable-diffusion-3-medium-diffusers": _community("stable-diffusion-3-medium"),
    "stabilityai/stable-diffusion-3.5-medium": _community("stable-diffusion-3.5-medium"),
    "stabilityai/stable-diffusion-3.5-large": _community("stable-diffusion-3.5-large"),
    "stabilityai/stable-diffusion-3.5-large-turbo": _community("stable-diffusion-3.5-large-turbo"),
}


def license_of(base_model: str, *, folder: Path | None) -> License:
    """The license of a base model: from its own card, else by its hub id; `unknown` if neither states one.

    base_model: a hub id, or the path of a folder or file. folder: where its files are.
    """
    on_hub = not Path(base_model).expanduser().exists()
    stated = _in_card(folder / CARD) if folder is not None else {}
    if "license" not in stated:
        return KNOWN.get(base_model, License()) if on_hub else License()
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
