"""Which files the house rules are held against, listed once for the tests of this folder."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "helpers"


def name_of(file: Path) -> str:
    """The file's path as a message should show it."""
    return file.relative_to(ROOT).as_posix()


def python_files(*folders: str) -> list[Path]:
    """Every Python file below the folders, and, where none is named, of the whole repository."""
    if folders:
        return sorted(file for folder in folders for file in (ROOT / folder).rglob("*.py"))
    return [file for file in repository_files() if file.suffix == ".py"]


def repository_files() -> list[Path]:
    """Every file of the repository, new ones too, but no ignored one."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    return [file for file in files if file.is_file() and not file.is_symlink()]
