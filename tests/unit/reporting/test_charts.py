"""Line charts: their points and positions, for any values."""

import re
from typing import Any

import pytest

from helpers.reporting.pages.charts import Series, line_chart, smoothed


def places(chart: str) -> list[tuple[float, float]]:
    """Where the one line goes, from the left and from the top, in thousandths."""
    (path,) = re.findall(r'stroke="[^"]+" d="M([^"]+)"', chart)
    return [(float(x), float(y)) for x, y in (place.split(",") for place in path.split(" "))]


def test_a_line_goes_from_the_first_to_the_last_step_and_up_with_its_values() -> None:
    (x0, y0), (x1, y1), (x2, y2) = places(
        line_chart([Series(name="a", points=[(1, 1.0), (50, 3.0), (100, 2.0)])], label="x")
    )
    assert (x0, x1, x2) == (10, 500, 1000)
    assert 0 < y1 < y2 < y0 < 1000
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.2)


def test_by_powers_of_ten_equal_ratios_are_equal_heights_and_zero_is_left_out() -> None:
    points = [(1, 0.001), (2, 0.01), (3, 0.0), (4, 0.1)]
    chart = line_chart([Series(name="a", points=points)], label="x", log=True)
    (_, y0), (_, y1), (_, y2) = places(chart)
    assert y0 - y1 == pytest.approx(y1 - y2, abs=0.2)
    assert ">0.01</span>" in chart


@pytest.mark.parametrize("points", [[(0, 0.5)], [(7, 0.0)], [(1, 2.0), (2, 2.0)], [(1, -1.0), (9, 1e-9)]])
@pytest.mark.parametrize("how", [{}, {"log": True}, {"zero": True}], ids=str)
def test_any_values_can_be_shown(points: list[tuple[float, float]], how: dict[str, Any]) -> None:
    chart = line_chart([Series(name="a<b", points=points)], label='"x"', **how)
    assert "nan" not in chart
    assert "a<b" not in chart


def test_a_chart_without_points_is_empty() -> None:
    assert line_chart([Series(name="a", points=[])], label="x") == ""


def test_a_smoothed_line_begins_at_the_first_value_and_follows_slowly() -> None:
    line = smoothed([(step, 1.0) for step in range(100)] + [(step, 2.0) for step in range(100, 110)])
    assert line[0] == (0, 1.0)
    assert line[99][1] == pytest.approx(1.0)
    assert 1.5 < line[-1][1] < 2.0
