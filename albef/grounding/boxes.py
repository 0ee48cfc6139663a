"""Boxes on a map: which one a text refers to, and how well it fits the true one.

A box is x, y, width and height in pixels from the image's upper left corner, as in COCO.
"""

# G x G cells of a map, H x W pixels of its image, K boxes

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

Box = Sequence[float]
"""x, y, width, height."""

AREA_EXPONENT = 0.5
"""A box scores what it holds of the map, over its area to this power: the sum prefers large boxes, the mean small ones.
The original's `alpha`."""
IOU_AT_LEAST = 0.5
"""A box is right from this overlap on."""


def at_image_size(heat: Tensor, width: int, height: int) -> Tensor:
    """A map (G, G) as (H, W) float64 on the CPU, bicubic as the original's: it may be a little below zero."""
    values = heat.detach().double().cpu()[None, None]
    return F.interpolate(values, size=(height, width), mode="bicubic")[0, 0]


def best_box(pixels: Tensor, boxes: Sequence[Box]) -> int:
    """The index of the box with the highest score, the first of equals.

    The original takes boxes above zero only, and where there is none, the box of the entry before.

    Args:
        pixels: (H, W), the map at the image's size.
        boxes: at least one; what is outside of the image counts as zero.
    """
    return int(np.argmax([_score(pixels, box) for box in boxes]))


def _score(pixels: Tensor, box: Box) -> float:
    x, y, width, height = box
    left, top = max(0, int(x)), max(0, int(y))
    inside = pixels[top : max(top, int(y + height)), left : max(left, int(x + width))]
    return float(inside.sum()) / float(width * height) ** AREA_EXPONENT


def box_of_map(heat: Tensor, width: int, height: int) -> tuple[float, float, float, float]:
    """Of all rectangles of cells the one with the highest score: a proposal where no detector gives any.

    Args:
        heat: (G, G), >= 0; each cell counts as constant. A map of zeros gives its upper left cell.
        width, height: of the image, pixels.
    """
    side = len(heat)
    sums = F.pad(heat.detach().double().cpu(), (1, 0, 1, 0)).cumsum(0).cumsum(1).numpy()  # (G+1, G+1)
    first, last = np.triu_indices(side + 1, k=1)  # every interval of cells, (G(G+1)/2,)
    rows = sums[last] - sums[first]  # (R, G+1)
    inside = rows[:, last] - rows[:, first]  # (R, R) of rows and columns
    lengths = (last - first).astype(np.float64)
    scores = inside / np.outer(lengths, lengths) ** AREA_EXPONENT
    row, column = np.unravel_index(int(scores.argmax()), scores.shape)
    cell = (width / side, height / side)
    x, y = first[column] * cell[0], first[row] * cell[1]
    return float(x), float(y), float(lengths[column] * cell[0]), float(lengths[row] * cell[1])


def hottest_pixel(pixels: Tensor) -> tuple[int, int]:
    """x and y of the largest value of (H, W), the first of equals."""
    y, x = divmod(int(np.argmax(pixels.numpy())), pixels.shape[1])
    return x, y


def holds_pixel(box: Box, pixel: tuple[int, int]) -> bool:
    """Whether a pixel's centre lies in a box."""
    x, y = pixel[0] + 0.5, pixel[1] + 0.5
    return box[0] <= x < box[0] + box[2] and box[1] <= y < box[1] + box[3]


def iou(one: Box, other: Box) -> float:
    """Intersection over union as RefCOCO's evaluations compute it: an overlap counts from two pixels on, both ways.

    A box's last pixel is x + width - 1, and the intersection of first and last pixel alone counts as none.
    """
    left, top = max(one[0], other[0]), max(one[1], other[1])
    right = min(one[0] + one[2], other[0] + other[2]) - 1
    bottom = min(one[1] + one[3], other[1] + other[3]) - 1
    shared = (right - left + 1) * (bottom - top + 1) if left < right and top < bottom else 0.0
    return float(shared / (one[2] * one[3] + other[2] * other[3] - shared))
