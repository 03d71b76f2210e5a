"""Whose license a trained model is under: its base's, as the base itself says, and never by a guess."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CARD = "README.md"
FRONT_MATTER = re.compile(r"\A---\s*\n(.*?\n)---\s*$", flags=re.DOTALL | re.MULTILINE)
# `key: value`, the value in quotes or not, or folded on to the next line.
SAID = re.compile(
    r"^(license(?:_name|_link)?):[ \t]*(?:[>|]-?[ \t]*\n[ \t]+)?[\"']?([^\s\"'\[\]]+)[\"']?[ \t]*$", re.MULTILINE
)
UNKNOWN_ID = "unknown"


@dataclass(frozen=True, kw_only=True)
class License:
    """A license in the words of the hub's cards: an identifier; where that is `other`, a name and a link, too."""

    identifier: str = UNKNOWN_ID
    name: str = ""
    link: str = ""


COMMUNITY = "stabilityai-ai-community"
STABILITY = "https://huggingface.co/stabilityai"


def _community(repository: str) -> License:
    return License(identifier="other", name=COMMUNITY, link=f"{STABILITY}/{repository}/blob/main/LICENSE.md")


# As the models' own cards say on the hub, for those whose card was not downloaded with them.
KNOWN: Mapping[str, License] = {
    "stabilityai/stable-diffusion-3-medium-diffusers": _community("stable-diffusion-3-medium"),
    "stabilityai/stable-diffusion-3.5-medium": _community("stable-diffusion-3.5-medium"),
    "stabilityai/stable-diffusion-3.5-large": _community("stable-diffusion-3.5-large"),
    "stabilityai/stable-diffusion-3.5-large-turbo": _community("stable-diffusion-3.5-large-turbo"),
}


def license_of(base_model: str, *, folder: Path | None) -> License:
    """The license of a base: what its own card says, else what is known of the hub id; `unknown` where nobody says.

    base_model: a hub id, or the path of a folder or a file. folder: where its files are.
    """
    on_hub = not Path(base_model).expanduser().exists()
    said = _in_card(folder / CARD) if folder is not None else {}
    if "license" not in said:
        return KNOWN.get(base_model, License()) if on_hub else License()
    link = said.get("license_link", "")
    if link and "://" not in link:
        link = f"https://huggingface.co/{base_model}/blob/main/{link}" if on_hub else ""
    return License(identifier=said["license"], name=said.get("license_name", ""), link=link)


def _in_card(card: Path) -> dict[str, str]:
    try:
        found = FRONT_MATTER.match(card.read_text(encoding="utf-8").replace("\r\n", "\n"))
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(SAID.findall(found[1])) if found else {}
