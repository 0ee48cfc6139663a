"""Charts are drawn to scale, and nothing is drawn of nothing."""

from __future__ import annotations

import re

import pytest

from base.charts import STYLE, Line, histogram_chart, line_chart, ticks


def test_a_chart_is_drawn_to_scale_and_survives_odd_numbers() -> None:
    """High values are at the top, low ones at the bottom; NaN and infinity are left out; nothing gives nothing."""
    drawn = line_chart("t", [Line(name="a", points=[(0, 1.0), (5, float("nan")), (10, 3.0), (20, float("inf"))])])
    (path,) = re.findall(r'<path class="line c0" d="M([^"]*)"', drawn)
    (x0, y0), (x1, y1) = [tuple(map(float, point.split(","))) for point in path.split("L")]
    assert x0 < x1 and y0 > y1  # SVG counts y downwards
    assert line_chart("t", [Line(name="a", points=[])]) == ""
    assert "<path" in line_chart("t", [Line(name="flat", points=[(0, 2.0), (1, 2.0)])])
    assert ticks(0.0, 97.0) == [0.0, 50.0, 100.0]
    assert ticks(0.63, 0.71)[0] <= 0.63 and ticks(0.63, 0.71)[-1] >= 0.71


def test_a_histogram_has_a_bar_for_each_bin_between_the_outermost_that_are_used() -> None:
    """6, 0 and 2 of 8 in bins of which the first and the last are empty: 75%, 0% and 25%, to scale."""
    drawn = histogram_chart("Sides", [0, 8, 16, 32, 64, 128], [0, 6, 0, 2, 0], mean=18.25, note="a < b", unit=" px")
    bars = re.findall(r'<rect class="column" x="([^"]*)" y="([^"]*)" width="([^"]*)" height="([^"]*)"', drawn)
    (x0, y0, width0, h0), (x1, _, width1, h1), (x2, y2, _, h2) = [tuple(map(float, bar)) for bar in bars]
    assert width0 == width1 and x1 - x0 == pytest.approx(x2 - x1, abs=0.11)  # each is rounded to a tenth
    assert h1 == 0 and h0 == pytest.approx(3 * h2, abs=0.2) and y0 + h0 == pytest.approx(y2 + h2, abs=0.11)
    assert re.findall(r"<title>([^<]*)</title>", drawn) == ["8 to 16: 6", "16 to 32: 0", "32 to 64: 2"]
    assert re.findall(r'class="tick"[^>]*>([^<]*)<', drawn) == ["0%", "38%", "75%", "8", "16", "32", "64"]
    assert "a &lt; b" in drawn and "mean <b>18.25 px</b>" in drawn


def test_the_last_edge_of_a_histogram_is_open() -> None:
    assert "<title>2 to ≥4: 1</title>" in histogram_chart("t", [1, 2, 4], [0, 1], mean=9.0)
    assert histogram_chart("t", [1, 2, 4], [0, 0], mean=0.0) == ""


def test_every_class_that_a_chart_uses_has_a_style() -> None:
    """The page takes its style from the same place as its charts."""
    lines = [
        Line(name="a", points=[(x, x % 7) for x in range(40)], smooth=True),
        Line(name="b", points=[(0, 1), (9, 2)]),
    ]
    drawn = line_chart("t", lines) + histogram_chart("t", [1, 2, 4], [3, 1], mean=1.5)
    names = {name for words in re.findall(r'class="([^"]*)"', drawn) for name in words.split()}
    style = STYLE.read_text(encoding="utf-8")
    assert {"chart", "grid", "tick", "column", "line", "faint", "dot", "key", "c0", "c1"} == names
    assert [name for name in names if not re.search(rf"\.{name}\b", style)] == []
