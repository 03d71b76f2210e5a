"""What is written appears complete or not at all, with the permissions that the folder's owner expects."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.files import PARTIAL_FILES, atomic_file, atomic_folder, atomic_write_text, clear_leftovers

REPOSITORY = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from helpers.files import {writer}
with {writer}(Path(sys.argv[1])) as partial:
    {write}
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path, *, writer: str, write: str) -> None:
    """A writer in a process of its own, killed before it has finished."""
    command = [sys.executable, "-c", KILLED.format(writer=writer, write=write), str(path)]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_replaces_another_only_when_it_is_complete(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "new folder" / "page.html"
    with atomic_file(path, durable=durable) as partial:
        partial.write_text("old")
        assert not path.exists()
    with pytest.raises(RuntimeError), atomic_file(path, durable=durable) as partial:
        partial.write_text("half of the n")
        raise RuntimeError
    assert path.read_text() == "old"
    with atomic_file(path, durable=durable) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"
    assert [(file.name, file.read_text()) for file in path.parent.iterdir()] == [("page.html", "new")]


def test_a_killed_writer_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    atomic_write_text(path, "old")
    killed(path, writer="atomic_file", write="partial.write_text('half')")
    assert path.read_text() == "old"
    assert len(list(tmp_path.glob(PARTIAL_FILES))) == 1


def test_a_killed_writer_of_a_folder_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint-2"
    with atomic_folder(path) as partial:
        (partial / "weights").write_text("old")
    killed(path, writer="atomic_folder", write="(partial / 'weights').write_text('half')")
    assert (path / "weights").read_text() == "old"
    assert len(clear_leftovers(tmp_path, name_pattern="checkpoint-*")) == 1
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-2"]


def test_permissions_follow_the_umask_and_a_replaced_file_s_stay(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "file") as partial:
            partial.write_text("")
        with atomic_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"file": 0o640, "folder": 0o750}
    (tmp_path / "file").chmod(0o600)
    atomic_write_text(tmp_path / "file", "secret")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_text_that_is_not_utf8_is_written(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "page.html", b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert (tmp_path / "page.html").read_bytes() == b"caf?"
