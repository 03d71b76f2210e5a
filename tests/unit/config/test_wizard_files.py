"""What the wizard writes: texts that survive bash, backups that stand, all files or none."""

from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.config.env.env_file import read_env_file
from helpers.config.wizard.files import NewFile, quoted, write
from helpers.errors import ConfigError

NOW = datetime(2026, 1, 2, 3, 4, 5)

# Letters of every kind but those that no line of a file can hold.
TEXTS = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=40)

TRAPS = ("it's", '"', "$HOME", "${A", "`id`", "a # b", "\\", "!!", "~", "*", "-n", " ")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(TEXTS | st.sampled_from(["it's", '"', "$HOME", "`id`", "a # b", "\\", "!!", "~", "*"]), min_size=1)
)
def test_every_text_survives_bash(texts: list[str], tmp_path: Path) -> None:
    file = tmp_path / "config.env"
    file.write_text("".join(f"export V{number}={quoted(text)}\n" for number, text in enumerate(texts)), "utf-8")
    assert read_env_file(file, known=[]) == {f"V{number}": text for number, text in enumerate(texts)}


def test_a_backup_never_takes_the_place_of_another(tmp_path: Path) -> None:
    file = tmp_path / "config.env"
    for text in ("first", "second", "third"):
        write([NewFile(path=file, text=text)], now=NOW)
    assert file.read_text() == "third"
    backups = sorted(tmp_path.glob("config.env.backup-*"))
    assert [backup.name for backup in backups] == [f"config.env.backup-20260102-030405{end}" for end in ("", "-2")]
    assert [backup.read_text() for backup in backups] == ["first", "second"]


def test_where_one_file_cannot_be_written_none_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files = [NewFile(path=tmp_path / "config.env", text="new"), NewFile(path=tmp_path / "file" / "x.json", text="[]")]
    with pytest.raises(ConfigError, match=r"x\.json"):
        write(files, now=NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_link_is_written_through_with_the_rights_it_had(tmp_path: Path) -> None:
    real = tmp_path / "real.env"
    real.write_text("old")
    real.chmod(0o600)
    (tmp_path / "config.env").symlink_to(real)
    (backup,) = write([NewFile(path=tmp_path / "config.env", text="new")], now=NOW)
    assert (real.read_text(), real.stat().st_mode & 0o777, backup.stat().st_mode & 0o777) == ("new", 0o600, 0o600)
    assert (tmp_path / "config.env").is_symlink()
