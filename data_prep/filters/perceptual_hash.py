"""A perceptual hash of 256 bits: equal or nearly equal for copies that were resized or compressed again.

The image is made gray, squeezed to 32 x 32 and put through a two-dimensional cosine transform. Each of the lowest 256
frequencies without the mean gives one bit: whether its coefficient is above a dead zone. A mirrored image has the same
coefficients with the odd horizontal frequencies negated, so its hash differs in known bits (`MIRROR`), and mirrored
copies need no second hash. A median instead of the fixed bound would break that. All arithmetic is in integers, so that
no machine rounds differently.
"""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from samples.image import upright

SIDE = 32
NUM_BITS = 256
NUM_BYTES = NUM_BITS // 8
SCALE = 1 << 12
DEAD_ZONE_LEVELS = 0.01
"""Coefficients (orthonormal transform, divided by SIDE, so in gray levels) up to this are noise around 0: the odd ones
of a symmetric drawing, the high ones of a soft one. The dead zone makes their bit 0 in every copy, not random."""
CLEAR_LEVELS = 0.1
MIN_CLEAR = 24
"""An image with fewer coefficients beyond +-CLEAR_LEVELS is flat: there is nothing to compare. Noise of one level stays
below 0.05; a picture of six by six soft spots has over 80 such coefficients."""


def _cosines() -> np.ndarray:
    """(SIDE, SIDE) int64 rows of the orthonormal cosine transform times SCALE, exactly (anti)symmetric."""
    half = SIDE // 2
    rows = np.zeros((SIDE, SIDE), dtype=np.int64)
    for k in range(SIDE):
        norm = math.sqrt((1 if k == 0 else 2) / SIDE) * SCALE
        left = [round(norm * math.cos(math.pi * (2 * x + 1) * k / (2 * SIDE))) for x in range(half)]
        rows[k] = left + [value if k % 2 == 0 else -value for value in reversed(left)]
    return rows


def _lowest() -> tuple[np.ndarray, np.ndarray]:
    """Vertical and horizontal frequency of each bit, lowest first, without the mean."""
    pairs = [(v, h) for v in range(SIDE) for h in range(SIDE) if v + h]
    chosen = sorted(pairs, key=lambda pair: (pair[0] ** 2 + pair[1] ** 2, pair))[:NUM_BITS]
    return np.array([v for v, _ in chosen]), np.array([h for _, h in chosen])


COSINES = _cosines()
VERTICAL, HORIZONTAL = _lowest()
MIRROR = np.packbits(HORIZONTAL % 2 == 1)
"""(32,) uint8: the hash of the mirrored image is the hash XOR this, except for bits in the dead zone."""
STABLE_BITS = np.flatnonzero(HORIZONTAL % 2 == 0)
"""Bits that an image and its mirror image share, lowest frequencies first."""
_LEVEL = SIDE * SCALE * SCALE
_DEAD_ZONE = round(DEAD_ZONE_LEVELS * _LEVEL)
_CLEAR = round(CLEAR_LEVELS * _LEVEL)


def hash_image(image: Image.Image) -> np.ndarray | None:
    """(32,) uint8, or None for a flat image. The caller closes `image`."""
    gray = image if image.mode == "L" else image.convert("L")
    small = np.asarray(gray.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.int64)
    coefficients = (COSINES @ small @ COSINES.T)[VERTICAL, HORIZONTAL]
    if np.count_nonzero(np.abs(coefficients) > _CLEAR) < MIN_CLEAR:
        return None
    return np.packbits(coefficients > _DEAD_ZONE)


def hash_jpeg(data: bytes) -> np.ndarray | None:
    """The hash of a stored image, decoded in gray at the smallest scale of the JPEG that is at least twice SIDE.

    Raises: any error of Pillow for a damaged JPEG.
    """
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft("L", (2 * SIDE, 2 * SIDE))
        return hash_image(upright(image))


def distances(a: np.ndarray, b: np.ndarray, *, mirrored: bool = True) -> np.ndarray:
    """(n,) Hamming distances of (n, 4) uint64 hashes `a` and `b`, to `b` or its mirror image, the smaller one."""
    differing = a ^ b
    plain = np.bitwise_count(differing).sum(axis=1, dtype=np.uint16)
    if not mirrored:
        return plain
    return np.minimum(plain, np.bitwise_count(differing ^ _MIRROR_WORDS).sum(axis=1, dtype=np.uint16))


def as_words(hashes: np.ndarray) -> np.ndarray:
    """(n, 4) uint64 view or copy of (n, 32) uint8 hashes."""
    return np.ascontiguousarray(hashes).view("<u8")


_MIRROR_WORDS = as_words(MIRROR[None])
