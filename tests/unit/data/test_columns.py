"""Columns hold what lists would, odd names included."""

import numpy as np
import pytest

from helpers.data import columns
from helpers.data.columns import BytesColumn, TextColumn, printable

NAMES = ["a.png", "", "日本 語.png", "caf\udce9.png", "two\nlines", "a.png"]


def test_a_column_is_a_sequence_of_its_strings() -> None:
    column = TextColumn.of(NAMES)
    assert list(column) == NAMES
    assert [column[index] for index in range(len(column))] == NAMES
    assert column[-1] == "a.png"
    assert list(column[1:3]) == NAMES[1:3]
    assert "caf\udce9.png" in column
    with pytest.raises(IndexError):
        column[len(NAMES)]


def test_rows_are_taken_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "TAKEN_AT_ONCE", 2)
    rows = np.array([5, 3, 3, 0, 1])
    assert list(TextColumn.of(NAMES).take(rows)) == [NAMES[row] for row in rows]


def test_columns_may_be_empty() -> None:
    assert list(BytesColumn.of([])) == []
    assert list(TextColumn.of(NAMES).take(np.zeros(0, np.int64))) == []


def test_names_for_messages_fit_on_a_line() -> None:
    assert printable("日本 語.png") == "日本 語.png"
    assert printable("two\nlines") == r"'two\nlines'"
    assert printable("caf\udce9").encode("utf-8")
