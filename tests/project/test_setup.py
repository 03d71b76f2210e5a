"""Setting up is quick the second time, goes on after an interruption, and says what to do where it can't."""

import importlib.metadata
import os
import shutil
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.project.sources import ROOT


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the set-up script, and lists of packages that this environment has."""
    folder = tmp_path / "clone"
    (folder / "install").mkdir(parents=True)
    shutil.copy(ROOT / "install" / "setup.sh", folder / "install")
    (folder / "install" / "requirements.txt").write_text("\n".join([pin("torch"), pin("numpy")]) + "\n")
    (folder / "install" / "requirements-dev.txt").write_text(f"-r requirements.txt\n{pin('pytest')}\n")
    return folder


def pin(package: str) -> str:
    return f"{package}=={importlib.metadata.version(package).split('+')[0]}"


def set_up(clone: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the script with no package index: what this environment does not have can't be installed."""
    kept = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "VENV_PATH")}
    command = ["/bin/bash", str(clone / "install" / "setup.sh"), *words]
    told = {**kept, "PIP_NO_INDEX": "1", **environment}
    return subprocess.run(command, env=told, capture_output=True, text=True, timeout=300)


@pytest.fixture
def environment(clone: Path) -> Path:
    """The clone's own .venv, which sees the packages of this one but has none of the script's marks."""
    folder = clone / ".venv"
    venv.create(folder, with_pip=True)
    site_packages = Path(sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)}))
    (site_packages / "packages_of_the_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.suffix != ".pyc"}


def test_an_interrupted_set_up_goes_on_and_a_second_one_changes_nothing(clone: Path, environment: Path) -> None:
    wish = clone / "install" / "requirements-dev.txt"
    good = wish.read_text()
    wish.write_text(good + "there-is-no-such-package==1.0\n")
    failed = set_up(clone, "dev")
    assert failed.returncode != 0
    assert "Run the same command again" in failed.stderr
    assert set_up(clone).returncode == 0, "what was installed whole before the failure counts"

    wish.write_text(good)
    again = set_up(clone, "dev")
    assert again.returncode == 0, again.stderr
    assert "is ready" in again.stdout

    before = contents(environment)
    quiet = set_up(clone, "dev")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")
    assert contents(environment) == before

    wish.write_text(good + pin("packaging") + "\n")
    assert "requirements-dev.txt" in set_up(clone, "dev").stdout, "a changed list is installed"


def test_without_a_fit_python_the_cure_is_named(clone: Path, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("dirname", "cmp", "grep", "cp", "rm"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    empty_shim = tools / "python3.11"
    empty_shim.write_text("#!/bin/bash\necho 'python3.11: command not found' >&2\nexit 127\n")
    empty_shim.chmod(0o755)
    refused = set_up(clone, PATH=str(tools))
    assert refused.returncode == 1
    assert "apt install python3 python3-venv" in refused.stderr
    assert "uv python install 3.12" in refused.stderr
    assert not (clone / ".venv").exists()


def test_an_unknown_word_is_refused(clone: Path) -> None:
    assert set_up(clone, "development").returncode == 2


@pytest.mark.parametrize("script", ["install/setup.sh", "tests/run.sh", ".ci/run"])
def test_bash_reads_the_scripts(script: str) -> None:
    assert subprocess.run(["/bin/bash", "-n", str(ROOT / script)]).returncode == 0
