"""Reads the documents as their readers do: links, headings, blocks of code, inline code, tables."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.project.sources import ROOT, name_of, repository_files

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", flags=re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A block of code in a document, and the line it begins at."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{name_of(self.document)}:{self.line}"


def documents() -> list[Path]:
    """Every page of ours; what was taken from elsewhere is none."""
    ours = (ROOT / "documentation",)
    return [
        file
        for file in repository_files()
        if file.suffix == ".md" and (file.parent == ROOT or any(file.is_relative_to(folder) for folder in ours))
    ]


def blocks(*languages: str) -> list[Block]:
    """Every block of code in these languages."""
    found: list[Block] = []
    for document in documents():
        text = document.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            if match[2] in languages:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(document=document, line=line, language=match[2], text=textwrap.dedent(match[3])))
    return found


def prose(document: Path) -> str:
    """A document without its blocks of code."""
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def inline_code(document: Path) -> list[str]:
    """What stands between backticks in a document's prose."""
    return re.findall(r"`([^`\n]+)`", prose(document))


def links(document: Path) -> list[str]:
    """Where a document's links and images lead."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(document)))


def anchors(document: Path) -> set[str]:
    """What a link may name behind a #, made of the headings as GitHub makes it."""
    headings = re.findall(r"^#+ (.+)$", prose(document), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section(document: Path, heading: str) -> str:
    """The prose under a heading, up to the next of its rank."""
    found = re.search(rf"^(#+) {re.escape(heading)}$(.*?)(?=^\1 |\Z)", prose(document), flags=re.MULTILINE | re.DOTALL)
    assert found, f"{name_of(document)} has no heading {heading!r}"
    return found[2]


def tables(text: str) -> Iterator[list[list[str]]]:
    """Each table of a text: its rows, the heading first, as cells."""
    for lines in re.findall(r"^\|.*\|\n\|[-|]+\|\n(?:\|.*\|\n)+", text, flags=re.MULTILINE):
        heading, _, *rows = lines.strip().splitlines()
        yield [[cell.strip() for cell in line[1:-1].split(" |")] for line in (heading, *rows)]


def table(document: Path, heading: str, *, number: int = 0) -> list[list[str]]:
    """The rows of the table under a heading, without its own heading."""
    return list(tables(section(document, heading)))[number][1:]
