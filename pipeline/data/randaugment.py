"""The original's RandomAugment: ten operations on 8-bit RGB, two drawn per image, each applied half of the time.

The original ran OpenCV; these use Pillow, with the same formulas, the same coordinates (pixel centres at whole numbers,
edges blended into the gray fill) and the same truncation, so that results differ by interpolation's last bits only:
`tests/parity/test_randaugment.py` has the bound for each operation.

Two of the original's operations overflow their 8 bits. AutoContrast negates the darkest value as an unsigned byte, so a
channel whose darkest value is not 0 turns entirely white. Sharpness lets pixels that are too bright wrap to black, and
pixels that are too dark to white. Both are repaired by default; `overflow=True` computes them as the original.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from pipeline.data.seeds import Draws

MAX_LEVEL = 10
FILL = (128, 128, 128)
"""The colour that fills pixels outside the moved image, as in the original."""
APPLY_PROBABILITY = 0.5
"""Each drawn operation is applied with this probability, so a quarter of the images stays unchanged."""


def rand_augment(
    image: Image.Image, draws: Draws, *, num_ops: int = 2, level: float = 7, overflow: bool = False
) -> Image.Image:
    """Apply the operations that `choose_ops` draws. RGB in, RGB out."""
    return apply_ops(image, choose_ops(draws, num_ops=num_ops, level=level), overflow=overflow)


def choose_ops(draws: Draws, *, num_ops: int, level: float) -> list[tuple[str, float]]:
    """Draw operations with replacement, uniformly; keep each with probability one half; draw a sign where it has one.

    Args:
        draws: three draws are taken for each operation, used or not, so that later draws never shift.
        num_ops: operations drawn.
        level: strength, 0..MAX_LEVEL; pretraining uses 7.

    Returns: (name, magnitude) of the operations to apply, in order.
    """
    chosen = []
    for _ in range(num_ops):
        name = OPERATIONS[draws.integer(len(OPERATIONS))]
        applied, negative = draws.uniform() < APPLY_PROBABILITY, draws.uniform() < 0.5
        if applied:
            chosen.append((name, magnitude(name, level) * (-1 if negative and name in SIGNED else 1)))
    return chosen


def magnitude(name: str, level: float) -> float:
    """How strong operation `name` is at `level`, without its sign; 0 for operations that have no strength.

    Factor of enhancement 0.1 .. 1.9 (so 1.36 at level 7: never a reduction there), shear 0 .. 0.3, shift 0 .. 10 pixels
    at any image size, angle 0 .. 30 degrees.
    """
    _, at_zero, at_max = _TABLE[name]
    return at_zero + level / MAX_LEVEL * (at_max - at_zero)


def apply_ops(image: Image.Image, ops: Sequence[tuple[str, float]], *, overflow: bool = False) -> Image.Image:
    """Apply (name, signed magnitude) one after another to an RGB image. Pure.

    Args:
        overflow: AutoContrast and Sharpness as the original computes them (see the top of this file).
    """
    for name, strength in ops:
        operation = _OVERFLOWING.get(name, _TABLE[name][0]) if overflow else _TABLE[name][0]
        image = operation(image, strength)
    return image


def _identity(image: Image.Image, _: float) -> Image.Image:
    return image


def _autocontrast(image: Image.Image, _: float) -> Image.Image:
    return ImageOps.autocontrast(image)


def _equalize(image: Image.Image, _: float) -> Image.Image:
    return ImageOps.equalize(image)


def _brightness(image: Image.Image, factor: float) -> Image.Image:
    # A table rather than ImageEnhance: values are cut to whole numbers, not rounded, as in the original.
    table = [min(int(value * factor), 255) for value in range(256)]
    return image.point(table * 3)


def _sharpness(image: Image.Image, factor: float) -> Image.Image:
    """Away from (factor > 1) or towards (factor < 1) a 3x3 smoothing; the outermost pixels stay as they are."""
    smooth = image.filter(ImageFilter.SMOOTH)
    return Image.blend(smooth, image, factor)


def _autocontrast_overflowing(image: Image.Image, _: float) -> Image.Image:
    table: list[int] = []
    pixels = np.asarray(image)
    for low, high in zip(pixels.min((0, 1)).tolist(), pixels.max((0, 1)).tolist(), strict=True):
        if high <= low:
            table += range(256)
        else:
            scale = 255 / (high - low)
            offset = (-low % 256) * scale  # -low as an unsigned byte
            table += [min(int(value * scale + offset), 255) for value in range(256)]
    return image.point(table)


def _sharpness_overflowing(image: Image.Image, factor: float) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    smooth = np.asarray(image.filter(ImageFilter.SMOOTH), dtype=np.float32)
    sharp = smooth + np.float32(factor) * (pixels - smooth)
    return Image.fromarray(sharp.astype(np.int32).astype(np.uint8))  # int32 cuts towards zero, uint8 takes the low byte


def _shear_x(image: Image.Image, factor: float) -> Image.Image:
    return _warp(image, (1.0, -factor, 0.0, 0.0, 1.0, 0.0))


def _shear_y(image: Image.Image, factor: float) -> Image.Image:
    return _warp(image, (1.0, 0.0, 0.0, -factor, 1.0, 0.0))


def _translate_x(image: Image.Image, pixels: float) -> Image.Image:
    return _warp(image, (1.0, 0.0, pixels, 0.0, 1.0, 0.0))


def _translate_y(image: Image.Image, pixels: float) -> Image.Image:
    return _warp(image, (1.0, 0.0, 0.0, 0.0, 1.0, pixels))


def _rotate(image: Image.Image, degrees: float) -> Image.Image:
    """Counter-clockwise about (width / 2, height / 2), half a pixel off the true centre, as in the original."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = image.width / 2, image.height / 2
    return _warp(image, (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y))


def _warp(image: Image.Image, source_of: tuple[float, float, float, float, float, float]) -> Image.Image:
    """Output pixel (x, y) is taken, bilinearly, from (a x + b y + c, d x + e y + f), whole numbers at pixel centres.

    A border of the fill colour is added first: Pillow would repeat the edge pixel over the last half pixel, where the
    original blends the edge into the fill.
    """
    a, b, c, d, e, f = source_of
    border = 2
    # Pillow puts pixel centres at one half, on both sides of the map.
    shift_x = c + 0.5 - 0.5 * (a + b) + border
    shift_y = f + 0.5 - 0.5 * (d + e) + border
    return ImageOps.expand(image, border, FILL).transform(
        image.size, Image.Transform.AFFINE, (a, b, shift_x, d, e, shift_y), Image.Resampling.BILINEAR, fillcolor=FILL
    )


_TABLE: dict[str, tuple[Callable[[Image.Image, float], Image.Image], float, float]] = {
    "Identity": (_identity, 0.0, 0.0),
    "AutoContrast": (_autocontrast, 0.0, 0.0),
    "Equalize": (_equalize, 0.0, 0.0),
    "Brightness": (_brightness, 0.1, 1.9),
    "Sharpness": (_sharpness, 0.1, 1.9),
    "ShearX": (_shear_x, 0.0, 0.3),
    "ShearY": (_shear_y, 0.0, 0.3),
    "TranslateX": (_translate_x, 0.0, 10.0),
    "TranslateY": (_translate_y, 0.0, 10.0),
    "Rotate": (_rotate, 0.0, 30.0),
}
"""Name -> (operation, magnitude at level 0, at MAX_LEVEL)."""

_OVERFLOWING = {"AutoContrast": _autocontrast_overflowing, "Sharpness": _sharpness_overflowing}

OPERATIONS = tuple(_TABLE)
"""The ten names, in the original's order."""
SIGNED = frozenset(("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"))
"""Operations whose magnitude is negated half of the time."""
