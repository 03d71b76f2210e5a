"""Everyone installs the same packages: pip's pins, poetry's lock and the variants agree, and name no machine."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from install.pin import requirements_files
from tests.project.sources import ROOT, name_of, repository_files

# Said here in pieces, so that this file itself does not break the rule.
MACHINE_TRACES = re.compile(
    "|".join(
        [r"files\.python" + "hosted", r"pypi\.org/" + "simple", r"registry\.npm" + "js", r"deb\.debian" + r"\.org"]
    )
    + "|"
    + "|".join(
        [r"(?<![\w.])/work" + r"/", r"(?<![\w.])/root" + r"/", "/opt/" + "(?:pypi|wheels)", "extra-index" + "-url"]
    )
)


def project(folder: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))


def direct_dependencies(group: str) -> list[Requirement]:
    told = project(".")
    listed = told["project"]["dependencies"] if group == "main" else told["dependency-groups"][group]
    return [Requirement(line) for line in listed]


@pytest.mark.parametrize("file", requirements_files(), ids=lambda file: file.name)
def test_pip_installs_what_the_lock_says(file: Path) -> None:
    assert file.read_text(encoding="utf-8") == requirements_files()[file], "Run `python install/pin.py`."


@pytest.mark.parametrize("group", ["main", "dev", "pictures"])
def test_the_lock_holds_every_dependency_within_its_range(group: str) -> None:
    locked = {package["name"]: package for package in tomllib.loads((ROOT / "poetry.lock").read_text())["package"]}
    for wanted in direct_dependencies(group):
        package = locked.get(canonicalize_name(wanted.name))
        assert package, f"{wanted.name} is not in poetry.lock: run `poetry lock`"
        assert group in package["groups"], f"{wanted.name} is locked for another group: run `poetry lock`"
        assert wanted.specifier.contains(package["version"]), f"{wanted} is locked as {package['version']}"


@pytest.mark.parametrize(("variant", "more"), [("install/apple", set()), ("install/rocm", {"triton-rocm>=3"})])
def test_variants_ask_for_the_same_packages(variant: str, more: set[str]) -> None:
    main, other = project("."), project(variant)
    assert set(other["project"]["dependencies"]) == set(main["project"]["dependencies"]) | more
    assert other["dependency-groups"] == main["dependency-groups"]
    assert other["project"]["requires-python"] == main["project"]["requires-python"]


def test_apple_is_locked_with_everyone_else() -> None:
    assert (ROOT / "install/apple/poetry.lock").read_bytes() == (ROOT / "poetry.lock").read_bytes()


def test_no_file_names_a_machine() -> None:
    found: list[str] = []
    for file in repository_files():
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        found += [f"{name_of(file)}:{number}" for number, line in enumerate(lines, 1) if MACHINE_TRACES.search(line)]
    assert not found, f"Paths of one machine, or a registry's hosts: {found}"


@pytest.mark.parametrize(
    "trace", ["cd /wo" + "rk/main", "https://pypi.org/si" + "mple/torch/", "--find-links /opt/whe" + "els"]
)
def test_a_trace_of_a_machine_is_noticed(trace: str) -> None:
    assert MACHINE_TRACES.search(trace)
