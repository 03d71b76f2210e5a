"""Numbers are shown as people read them."""

import pytest

from helpers.reporting.format import format_amount, format_bytes, format_duration, format_rate


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
        (86399, "1 d 00 h"),
        (273600, "3 d 04 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(812_400_000, "812 MB"), (1_244_000_000, "1.24 GB"), (23.6e9, "23.6 GB")])
def test_memory(size: int, text: str) -> None:
    assert format_bytes(size) == text


@pytest.mark.parametrize(
    ("speed", "text"),
    [(1234.5, "1,234 images/s"), (20.12, "20.1 images/s"), (0.5, "30 images/min"), (0.001, "3.6 images/h")],
)
def test_rates_have_something_before_the_point(speed: float, text: str) -> None:
    assert format_rate(speed, "images") == text


def test_amounts_have_a_share_where_the_total_is_known() -> None:
    assert format_amount(120, 256, "images") == "120 of 256 images (46 %)"
    assert format_amount(1200, 0, "files") == "1,200 files"
