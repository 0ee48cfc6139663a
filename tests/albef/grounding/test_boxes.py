"""Boxes on maps, worked out by hand or by trying all."""

from __future__ import annotations

import pytest
import torch

from albef.grounding.boxes import at_image_size, best_box, box_of_map, holds_pixel, hottest_pixel, iou


def test_a_box_scores_its_sum_over_the_root_of_its_area() -> None:
    """A warm 2 x 2 in a 4 x 6 image: the box around it scores 4 / 2 = 2, a pixel of it 1, the whole 4 / sqrt(24)."""
    pixels = torch.zeros(4, 6, dtype=torch.float64)
    pixels[1:3, 2:4] = 1.0
    around, pixel, whole, beside = (
        (2.0, 1.0, 2.0, 2.0),
        (2.0, 1.0, 1.0, 1.0),
        (0.0, 0.0, 6.0, 4.0),
        (4.0, 0.0, 2.0, 4.0),
    )
    assert best_box(pixels, [whole, pixel, around, beside]) == 2
    assert best_box(pixels, [whole, pixel, beside]) == 1  # 1 against 0.82
    assert best_box(pixels, [beside, whole]) == 1
    pixels[1, 2] = 9.0
    assert best_box(pixels, [around, pixel, whole]) == 1  # 12 / 2 against 9
    assert best_box(-pixels, [pixel, whole]) == 1  # none above zero: the highest all the same
    assert best_box(0 * pixels, [beside, whole]) == 0  # the first of equals


def test_parts_of_a_box_outside_count_as_nothing() -> None:
    """A detector's box may leave the image, and has fractions of pixels, which are cut as in the original."""
    pixels = torch.ones(4, 4, dtype=torch.float64)
    assert best_box(pixels, [(-2.0, -2.0, 4.0, 4.0), (0.0, 0.0, 2.0, 2.0)]) == 1  # 4 / 4 against 4 / 2
    assert best_box(pixels, [(9.0, 9.0, 2.0, 2.0), (1.9, 1.9, 1.0, 1.0)]) == 1  # pixel 1 alone
    assert best_box(pixels, [(-9.0, 0.0, 3.0, 4.0), (3.0, 3.0, 1.0, 1.0)]) == 1


def test_the_box_of_a_map_is_the_best_of_all_rectangles() -> None:
    """Against every rectangle of cells, tried one by one in float64; edges at the image's pixels."""
    torch.manual_seed(4)
    for _ in range(5):
        heat = torch.rand(5, 5, dtype=torch.float64) ** 4
        best = max(
            (float(heat[y0:y1, x0:x1].sum()) / ((y1 - y0) * (x1 - x0)) ** 0.5, x0, y0, x1, y1)
            for y0 in range(5)
            for x0 in range(5)
            for y1 in range(y0 + 1, 6)
            for x1 in range(x0 + 1, 6)
        )
        x0, y0, x1, y1 = best[1:]
        expected = (x0 * 20.0, y0 * 10.0, (x1 - x0) * 20.0, (y1 - y0) * 10.0)
        assert box_of_map(heat, 100, 50) == pytest.approx(expected)
    assert box_of_map(torch.zeros(2, 2), 10, 10) == (0.0, 0.0, 5.0, 5.0)


def test_the_hottest_pixel_and_the_box_that_holds_it() -> None:
    """Of a map of 2 x 2 over 8 x 4 pixels the corner is hottest; a box holds the centres of its pixels."""
    pixels = at_image_size(torch.tensor([[0.0, 0.0], [0.0, 1.0]]), 8, 4)
    assert pixels.shape == (4, 8)
    x, y = hottest_pixel(pixels)
    assert x >= 6 and y == 3
    assert holds_pixel((6.0, 3.0, 2.0, 1.0), (7, 3)) and not holds_pixel((6.0, 3.0, 1.0, 1.0), (7, 3))
    assert not holds_pixel((0.0, 0.0, 6.4, 4.0), (6, 3)) and holds_pixel((0.0, 0.0, 6.5001, 4.0), (6, 3))


def test_overlap_by_hand() -> None:
    """Two boxes of 4 x 4, moved by 2 to the right: 8 shared of 24; the same box; a box beside."""
    assert iou((0, 0, 4, 4), (2, 0, 4, 4)) == pytest.approx(8 / 24)
    assert iou((1, 2, 4, 4), (1, 2, 4, 4)) == 1.0
    assert iou((0, 0, 4, 4), (4, 0, 4, 4)) == 0.0
