"""`python -m tests.elsewhere.diffusers_versions FOLDER`: opens every kind of export with diffusers of several versions.

Not part of the tests. Makes the environments in FOLDER (90 MB each), compares one prediction of each export with the
trainer's, and prints the table that is in documentation/EXPORTS.md.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from packaging.version import Version

from tests.elsewhere.environments import PACKAGES, environment, opened_with
from tests.elsewhere.exports import KINDS, write_exports

SAME = 1e-4


def main(folder: Path) -> int:
    """0, or 1 where an export differs, or does not open, with a version that should read it."""
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        exports = Path(temporary)
        write_exports(exports)
        found: list[Mapping[str, Any]] = []
        for version in PACKAGES:
            found.append(opened_with(environment(folder, version), exports))
            sys.stderr.write(f"diffusers {found[-1]['diffusers']} is done\n")
    sys.stdout.write("\n".join((*table(found), "", *errors(found), "")))
    return int(not all(is_same(each["found"][name]) for each in found for name in KINDS if should_read(each, name)))


def should_read(found: Mapping[str, Any], name: str) -> bool:
    """Whether this version of diffusers is no older than what that kind of export needs."""
    return Version(found["diffusers"]) >= Version(KINDS[name].since)


def is_same(result: float | str) -> bool:
    """Whether a difference is no more than rounding."""
    return isinstance(result, float) and result < SAME


def table(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Markdown: a row for each kind of export, a column for each version."""
    head = ["export", *(each["diffusers"] for each in found)]
    rows = [[name, *(cell(each["found"][name]) for each in found)] for name in KINDS]
    return [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows)]


def cell(result: float | str) -> str:
    """The largest difference as a share of what training changed; an error by its type."""
    if isinstance(result, str):
        return result.partition(":")[0]
    return f"{result:.0e}".replace("0e+00", "0") if is_same(result) else f"**{result:.2f}**"


def errors(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each error once."""
    return sorted(
        {
            f"diffusers {each['diffusers']}, {name}: {result.splitlines()[0]}"
            for each in found
            for name, result in each["found"].items()
            if isinstance(result, str)
        }
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
