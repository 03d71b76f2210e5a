"""`install/check_files.py` finds what an installer left damaged, and only that."""

import base64
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project.sources import ROOT

CONTENT = b"kernels" * 1000


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """One package with one file, installed as pip does it."""
    packages = tmp_path / "environment" / "lib" / "python3.12" / "site-packages"
    (packages / "cublas").mkdir(parents=True)
    (packages / "cublas" / "libcublas.so").write_bytes(CONTENT)
    (packages / "cublas" / "__pycache__").mkdir()
    add_package(packages, version="13.1")
    return tmp_path / "environment"


def add_package(packages: Path, *, version: str) -> None:
    told = packages / f"nvidia_cublas-{version}.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nvidia-cublas\nVersion: {version}\n")
    digest = base64.urlsafe_b64encode(hashlib.sha256(CONTENT).digest()).decode().rstrip("=")
    record = f"cublas/libcublas.so,sha256={digest},{len(CONTENT)}\ncublas/__pycache__/a.cpython-312.pyc,,\n"
    (told / "RECORD").write_text(record + f"{told.name}/RECORD,,\n")


def check(environment: Path) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / "install" / "check_files.py"), str(environment)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_an_environment_as_the_wheels_brought_it_is_good(environment: Path) -> None:
    status, told = check(environment)
    assert (status, told) == (0, "1 files of 1 packages compared with their RECORD: no problems\n")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"K" + CONTENT[1:], "other content"), (CONTENT[:-1], "6999 bytes, not 7000"), (None, "missing")],
)
def test_a_damaged_file_is_named(environment: Path, content: bytes | None, reason: str) -> None:
    library = next(environment.rglob("libcublas.so"))
    library.unlink()
    if content is not None:
        library.write_bytes(content)
    status, told = check(environment)
    assert status == 1
    assert f"nvidia-cublas 13.1: cublas/libcublas.so: {reason}" in told
    assert f"Fix: delete {environment}" in told


def test_two_versions_of_one_package_are_named(environment: Path) -> None:
    add_package(next(environment.rglob("site-packages")), version="13.10")
    status, told = check(environment)
    assert status == 1
    assert "nvidia-cublas: 13.1 and 13.10 are both installed" in told


def test_a_folder_without_packages_is_refused(tmp_path: Path) -> None:
    assert check(tmp_path)[0] == 2
