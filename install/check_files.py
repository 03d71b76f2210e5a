"""Compares every installed file of an environment with its package's RECORD, and names those that differ.

An installer can end without an error and leave a damaged environment: two versions of one package unpacked over each
other, a full disk, a download cut short. Run it by hand after an install that looks wrong, and after a change of
poetry.lock:

    .venv/bin/python install/check_files.py             the environment of this Python
    python install/check_files.py path/to/environment   another one

It reads every file (about 6 GB with CUDA: half a minute to a few minutes). Exit status: 0 where every file is as its
wheel brought it, 1 where one is not, 2 where there is no environment. Only the standard library is needed.
"""

import base64
import hashlib
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path

SHOWN = 20


def site_packages(environment: Path) -> list[Path]:
    """The folders of `environment` that hold its packages; Debian's and Windows' layouts included."""
    found = [*environment.glob("lib*/python3*/site-packages"), *environment.glob("Lib/site-packages")]
    return sorted({folder.resolve() for folder in found})


def problem_of(file: PackagePath) -> str | None:
    """What is wrong with one installed file: missing, of another size (bytes), of other content; None if nothing is."""
    path = Path(str(file.locate()))
    if not path.is_file():
        return "missing"
    if file.size is not None and path.stat().st_size != file.size:
        return f"{path.stat().st_size} bytes, not {file.size}"
    assert file.hash is not None
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, file.hash.mode).digest()
    wanted = file.hash.value.rstrip("=")
    return None if base64.urlsafe_b64encode(digest).decode().rstrip("=") == wanted else "other content"


def files_of(package: Distribution) -> list[PackagePath]:
    """The files that RECORD has a hash for: all but RECORD itself and what Python compiled."""
    return [file for file in package.files or [] if file.hash is not None and file.suffix != ".pyc"]


def twice(packages: Sequence[Distribution]) -> Iterator[str]:
    """The packages of which two versions are installed at once."""
    versions: dict[str, list[str]] = {}
    for package in packages:
        versions.setdefault(package.name.lower().replace("_", "-"), []).append(package.version)
    for name, several in sorted(versions.items()):
        if len(several) > 1:
            yield f"{name}: {' and '.join(sorted(several))} are both installed"


def check(folders: Sequence[Path]) -> tuple[int, int, list[str]]:
    """How many packages and files were compared, and a line for each problem."""
    packages = list(distributions(path=[str(folder) for folder in folders]))
    problems, compared = list(twice(packages)), 0
    for package in packages:
        for file in files_of(package):
            compared += 1
            if problem := problem_of(file):
                problems.append(f"{package.name} {package.version}: {file}: {problem}")
    return len(packages), compared, problems


def main(words: Sequence[str]) -> int:
    environment = Path(words[0] if words else sys.prefix)
    folders = site_packages(environment)
    if not folders:
        print(f"{environment} is not a Python environment: it has no lib/python3.*/site-packages.", file=sys.stderr)
        return 2
    packages, compared, problems = check(folders)
    for line in problems[:SHOWN]:
        print(line)
    if len(problems) > SHOWN:
        print(f"and {len(problems) - SHOWN} more")
    print(f"{compared} files of {packages} packages compared with their RECORD: {len(problems) or 'no'} problems")
    if problems:
        print(f"Fix: delete {environment} and install again.")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
