"""Mistakes in JSON files get one clear error each, with the fix that fits."""

from pathlib import Path

import pytest

from helpers.config.files.json_file import MAX_BYTES, WrongJson, parse_json, read_json

MISTAKES = [
    ("[1, // why\n2]", "remove the comment at line 1, column 5"),
    ("{\n# why\n}", "remove the comment at line 2, column 1"),
    ("['a']", "straight double quotes"),
    ("{“a”: 1}", "straight double quotes"),
    ("[True]", "write true instead of True"),
    ("[None]", "write null instead of None"),
    ("[1,]", "remove the comma before ]"),
    ('{"a": 1,\n}', "remove the comma"),
    ('["C:\\dir"]', "for each backslash"),
    ("{a: 1}", "put a in double quotes"),
    ("[1 2]", "add a comma before line 1, column 4"),
    ('["a\nb"]', "close the quotes"),
    ("[1", "add a comma|too early"),
    ("[", "too early"),
    ("", "too early"),
    ("[1] [2]", "one list"),
    ("[NaN]", "write a number instead of NaN"),
    ("[Infinity]", "write a number instead of Infinity"),
    (f"[{'9' * 5000}]", "write a smaller number"),
    ("[" * 10_000 + "]" * 10_000, "remove the nesting"),
    (r'["\ud800"]', "write the character itself"),
    ('{"a": 1, "a": 2}', "remove one of the two"),
]


@pytest.mark.parametrize(("text", "fix"), MISTAKES)
def test_each_mistake_has_its_fix(text: str, fix: str) -> None:
    with pytest.raises(WrongJson) as caught:
        parse_json(text)
    assert any(each in caught.value.fix for each in fix.split("|"))


def test_files_that_are_not_text_files(tmp_path: Path) -> None:
    latin = tmp_path / "latin.json"
    latin.write_bytes("['é']".encode("latin-1"))
    for path, reason in (
        (tmp_path / "none.json", "there is no such file"),
        (tmp_path, "cannot be read"),
        (Path("a\0b"), "cannot be read"),
        (tmp_path / ("x" * 300), "cannot be read"),
        (Path("/dev/zero"), f"larger than {MAX_BYTES // 1024**2} MiB"),
        (latin, "not UTF-8"),
    ):
        with pytest.raises(WrongJson) as caught:
            read_json(path)
        assert reason in caught.value.reason


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("[1]", encoding="utf-8-sig")
    assert read_json(file) == [1]
