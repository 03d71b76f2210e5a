"""Local folders as people have them: odd names, loops, full disks, killed writers."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.errors import CacheError, DataError
from helpers.storage.local import LocalCache, LocalSource

REPOSITORY = Path(__file__).resolve().parents[3]


def paths(folder: Path) -> list[str]:
    return [file.path for file in LocalSource(folder).list()]


def test_odd_names_survive(tmp_path: Path) -> None:
    names = [b"caf\xe9.png", b"two\nlines.png", b"a  b.png", "日本.png".encode()]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(name)
    listed = paths(tmp_path)
    assert sorted(map(os.fsencode, listed)) == sorted(names)
    assert [LocalSource(tmp_path).read(path) for path in listed] == [os.fsencode(path) for path in listed]


def test_loops_of_links_end_and_other_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    (tmp_path / "data" / "b").mkdir()
    (tmp_path / "data" / "a" / "1.png").write_bytes(b"1")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "2.png").write_bytes(b"2")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "b" / "other").symlink_to(tmp_path / "data" / "a")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    assert paths(tmp_path / "data") == ["a/1.png", "b/other/1.png", "linked/2.png"]


def test_a_link_to_itself_does_not_spoil_its_folder(tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "1.png").write_bytes(b"1")
    assert paths(tmp_path) == ["1.png", "circle"]


def test_hidden_folders_are_not_looked_into(tmp_path: Path) -> None:
    for path in (".git/objects/1.png", "cats/.thumbnails/1.png", "cats/1.png", ".hidden.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"1")
    assert paths(tmp_path) == [".hidden.png", "cats/1.png"]


def test_a_link_to_nothing_is_listed_and_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    assert paths(tmp_path) == ["gone.png"]
    with pytest.raises(FileNotFoundError):
        LocalSource(tmp_path).read("gone.png")


def test_pipes_are_left_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert paths(tmp_path) == []


def test_a_tag_changes_with_the_file(tmp_path: Path) -> None:
    file = tmp_path / "1.png"
    file.write_bytes(b"one")
    (before,) = LocalSource(tmp_path).list()
    os.utime(file, ns=(1, 1))
    (after,) = LocalSource(tmp_path).list()
    assert (before.size_bytes, before.tag) != (after.size_bytes, after.tag)
    assert after.tag == "1"


def test_a_missing_folder_is_named_with_the_setting(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not-here.*instance_data_dir"):
        paths(tmp_path / "not-here")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(17):  # a path longer than the system takes, which not even root can list by name
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    with pytest.raises(DataError, match=r"dddd.*too long"):
        paths(tmp_path)


WRITE = """
import resource, signal, sys
from pathlib import Path
from helpers.storage.local import LocalCache
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
if sys.argv[2] == "killed":
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
LocalCache(Path(sys.argv[1])).write("big.bin", bytes(1_000_000))
"""


def write_too_much(folder: Path, end: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WRITE, str(folder), end]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_a_place_without_room_is_named_and_left_clean(tmp_path: Path) -> None:
    result = write_too_much(tmp_path, "refused")
    assert "CacheError: cannot write big.bin (1.0 MB)" in result.stderr
    assert str(tmp_path) in result.stderr
    assert "Free up space" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_no_file_and_is_cleaned_up_after(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path)
    cache.write("good.bin", b"good")
    assert write_too_much(tmp_path, "killed").returncode == -signal.SIGXFSZ
    (leftover,) = set(tmp_path.iterdir()) - {tmp_path / "good.bin"}
    assert cache.sizes() == {"good.bin": 4}

    LocalCache(tmp_path).write("next.bin", b"next")
    assert leftover.exists(), "it may belong to another process that is still writing"
    os.utime(leftover, (0, 0))
    LocalCache(tmp_path).write("next.bin", b"next")
    assert not leftover.exists()
    assert cache.sizes() == {"good.bin": 4, "next.bin": 4}


def test_a_place_that_is_a_file_is_a_cache_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = LocalCache(tmp_path / "file")
    with pytest.raises(CacheError, match="cannot list"):
        cache.sizes()
    with pytest.raises(CacheError, match="cannot write"):
        cache.write("a", b"")
