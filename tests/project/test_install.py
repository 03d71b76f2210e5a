"""Everyone installs the same packages: pip's pins, poetry's lock and the variants agree, and name no machine."""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import Marker
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


@pytest.mark.parametrize("group", ["main", "dev", "cuda", "pictures"])
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
    groups = dict(main["dependency-groups"])
    if variant == "install/rocm":
        del groups["cuda"]  # ROCm's PyTorch takes none of NVIDIA's packages
    assert other["dependency-groups"] == groups
    assert other["project"]["requires-python"] == main["project"]["requires-python"]


def test_apple_is_locked_with_everyone_else() -> None:
    assert (ROOT / "install/apple/poetry.lock").read_bytes() == (ROOT / "poetry.lock").read_bytes()


# A package that the lock holds twice is unpacked twice: the files of one version lie among those of the other.
PLATFORMS = {
    ("linux", "Linux", "x86_64"): "Linux x86_64",
    ("linux", "Linux", "aarch64"): "Linux aarch64",
    ("darwin", "Darwin", "arm64"): "macOS arm64",
    ("win32", "Windows", "AMD64"): "Windows AMD64",
}
PYTHONS = ("3.11.7", "3.12.1", "3.13.0", "3.14.0", "3.14.10")


def environments() -> Iterator[tuple[str, dict[str, str]]]:
    """Each platform with each Python, by a name for the message, as the variables that markers ask for."""
    for (platform, system, machine), python in product(PLATFORMS, PYTHONS):
        yield (
            f"{PLATFORMS[platform, system, machine]}, Python {python}",
            {
                "sys_platform": platform,
                "platform_system": system,
                "platform_machine": machine,
                "os_name": "nt" if platform == "win32" else "posix",
                "python_full_version": python,
                "python_version": python.rpartition(".")[0],
                "implementation_name": "cpython",
                "platform_python_implementation": "CPython",
                "extra": "",
            },
        )


def is_installed(package: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    """Whether some group takes `package` there; its `markers` are one for all groups, or one for each."""
    markers = package.get("markers", {})
    told = [markers] if isinstance(markers, str) else [markers.get(group) for group in package["groups"]]
    return any(marker is None or Marker(marker).evaluate(dict(environment)) for marker in told)


def locked_twice(packages: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each two versions of one name that are installed together, and where."""
    pairs = [(one, other) for one, other in combinations(packages, 2) if one["name"] == other["name"]]
    return [
        f"{one['name']} {one['version']} and {other['version']} on {where}"
        for one, other in pairs
        for where, environment in environments()
        if is_installed(one, environment) and is_installed(other, environment)
    ]


def test_nothing_is_locked_twice_for_one_machine() -> None:
    packages = tomllib.loads((ROOT / "poetry.lock").read_text(encoding="utf-8"))["package"]
    assert not locked_twice(packages), "Poetry unpacks both over each other: hold one in [dependency-groups] cuda"


# As they stood in the lock that gave a broken cuBLAS on Linux.
ONLY_CUDA = (
    "(sys_platform == 'win32' and platform_machine == 'AMD64' or sys_platform == 'linux' and "
    "(platform_machine == 'aarch64' or platform_machine == 'x86_64')) and platform_system == 'Linux'"
)


def test_a_lock_with_two_versions_at_once_is_noticed() -> None:
    def cublas(version: str, **more: Any) -> dict[str, Any]:
        return {"name": "nvidia-cublas", "version": version, "groups": ["main"], **more}

    found = locked_twice([cublas("13.1.1.3", markers=ONLY_CUDA), cublas("13.10", markers="platform_system == 'Linux'")])
    assert "nvidia-cublas 13.1.1.3 and 13.10 on Linux x86_64, Python 3.11.7" in found
    assert not [line for line in found if "macOS" in line or "Windows" in line]
    assert locked_twice([cublas("1"), cublas("2", markers={"main": "python_version < '3.12'"})])
    apart = [cublas("1", markers="python_version < '3.13'"), cublas("2", markers="python_version >= '3.13'")]
    assert not locked_twice(apart)
    assert locked_twice([cublas("1"), cublas("2", groups=["main", "dev"], markers={"main": "os_name == 'none'"})])


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
