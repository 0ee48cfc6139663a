"""Scenes to pixels, in whole numbers, so that every machine draws the same bits.

A shape is a rule over points of the square it is drawn in; a pixel is covered by as many 64ths as points of an 8 x 8
grid in it are inside.
"""

# D diameter in pixels, S side of a picture in pixels

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from demo.world.scene import RGB, Scene, Thing

GRID = 8
FULL = GRID * GRID
BACKGROUND: RGB = (117, 119, 117)
"""Gray, near the mean by which images are normalised. Of a white ground, or one of many tints, a new image encoder sees
little else: its features of two pictures then differ by a tenth (cosine distance 0.0055, here 0.055)."""
PAPER: RGB = (255, 255, 255)
"""What a thing is filled with whose colour is not shown."""
PENCIL: RGB = (64, 68, 76)
STAR = (
    *((0.0, -1.0), (0.2351, -0.3236), (0.9511, -0.309), (0.3804, 0.1236), (0.5878, 0.809)),
    *((0.0, 0.4), (-0.5878, 0.809), (-0.3804, 0.1236), (-0.9511, -0.309), (-0.2351, -0.3236)),
)
"""Corners of a star of five points in [-1, 1], clockwise from the top."""

Points = NDArray[np.float64]
Inside = NDArray[np.bool_]


def draw(scene: Scene, side: int) -> Image.Image:
    """The picture of a scene, (side, side) RGB."""
    canvas = np.empty((side, side, 3), dtype=np.int64)
    canvas[:] = BACKGROUND
    for thing in scene.things:
        _draw_thing(canvas, thing, max(1, side // 64))
    return Image.fromarray(canvas.astype(np.uint8))


def box_of(thing: Thing) -> tuple[int, int, int, int]:
    """x, y, width and height in pixels of the pixels that the thing covers at least half."""
    covered = coverage(thing.shape or "veil", thing.diameter) * 2 >= FULL
    rows, columns = np.flatnonzero(covered.any(axis=1)), np.flatnonzero(covered.any(axis=0))
    left, top = int(columns[0]), int(rows[0])
    return thing.x + left, thing.y + top, int(columns[-1]) - left + 1, int(rows[-1]) - top + 1


def _draw_thing(canvas: NDArray[np.int64], thing: Thing, border: int) -> None:
    """A darker rim, the shape in its colour, and a question mark where colour or shape is not shown."""
    shape = thing.shape or "veil"
    fill = thing.rgb if thing.colour else PAPER
    rim = _darker(thing.rgb) if thing.colour else PENCIL
    _blend(canvas, coverage(shape, thing.diameter), thing.x, thing.y, rim)
    inner = thing.diameter - 2 * border
    _blend(canvas, coverage(shape, inner, thing.diameter), thing.x + border, thing.y + border, fill)
    if thing.colour is None or thing.shape is None:
        mark = PENCIL if thing.colour is None else PAPER
        _blend(canvas, coverage("question mark", thing.diameter), thing.x, thing.y, mark)


def _blend(canvas: NDArray[np.int64], covered: NDArray[np.int64], x: int, y: int, rgb: RGB) -> None:
    size = len(covered)
    part, share = canvas[y : y + size, x : x + size], covered[..., None]
    part[:] = (part * (FULL - share) + np.array(rgb) * share + FULL // 2) // FULL


def _darker(rgb: RGB) -> RGB:
    red, green, blue = (value * 7 // 10 for value in rgb)
    return red, green, blue


@cache
def coverage(shape: str, diameter: int, outer: int | None = None) -> NDArray[np.int64]:
    """64ths of each pixel that a shape covers, (D, D).

    Args:
        outer: the diameter of the rim that it is the inside of. A ring keeps half of a rim on its inside too.
    """
    steps = (2 * np.arange(diameter * GRID, dtype=np.float64) + 1) / (diameter * GRID) - 1
    u, v = np.meshgrid(steps, steps)  # (8D, 8D) each, from -1 to 1
    inside = _inside(shape, u, v, rim=0.0 if outer is None else (outer - diameter) / diameter)
    covered: NDArray[np.int64] = inside.reshape(diameter, GRID, diameter, GRID).sum(axis=(1, 3), dtype=np.int64)
    return covered


def _inside(shape: str, u: Points, v: Points, rim: float) -> Inside:
    """Only sums, products and comparisons: they have one right result on every machine."""
    squared = u * u + v * v
    result: Any
    match shape:
        case "circle":
            result = squared <= 0.94
        case "ring":
            hole = 0.42 + rim / 2
            result = (squared <= 1.0) & (squared >= hole * hole)
        case "square":
            result = (abs(u) <= 0.84) & (abs(v) <= 0.84)
        case "diamond":
            result = abs(u) * 1.3 + abs(v) <= 1.0
        case "triangle":
            result = (v <= 0.8) & (abs(u) * 1.72 <= v + 0.92)
        case "cross":
            arm = 0.34 - rim * 0.3
            result = ((abs(u) <= arm) & (abs(v) <= 0.96)) | ((abs(v) <= arm) & (abs(u) <= 0.96))
        case "heart":
            x, y = 1.2 * u, -1.25 * v + 0.08
            lobe = x * x + y * y - 1.0
            result = lobe * lobe * lobe <= x * x * y * y * y
        case "star":
            result = _in_polygon(STAR, u, v + 0.06)
        case "veil":
            result = u * u * u * u + v * v * v * v <= 0.8
        case _:  # the question mark
            top = u * u + (v + 0.22) * (v + 0.22)
            bow = (top <= 0.38 * 0.38) & (top >= 0.17 * 0.17) & ((u >= 0.0) | (v <= -0.22))
            stem = (abs(u) <= 0.105) & (v >= 0.05) & (v <= 0.34)
            dot = (abs(u) <= 0.115) & (v >= 0.46) & (v <= 0.69)
            result = bow | stem | dot
    inside: Inside = result
    return inside


def _in_polygon(corners: tuple[tuple[float, float], ...], u: Points, v: Points) -> Inside:
    """Whether a ray to the right crosses the outline an odd number of times."""
    inside = np.zeros(u.shape, dtype=np.bool_)
    for (x0, y0), (x1, y1) in zip(corners, (*corners[1:], corners[0]), strict=True):
        if y0 != y1:
            inside ^= ((v < y0) != (v < y1)) & (u < (x1 - x0) * (v - y0) / (y1 - y0) + x0)
    return inside
