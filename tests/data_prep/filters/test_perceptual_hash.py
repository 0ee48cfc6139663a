"""The hash of an image: close for copies, far for others, and known for its mirror image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from data_prep.filters.perceptual_hash import (
    COSINES,
    HORIZONTAL,
    MIRROR,
    NUM_BITS,
    SCALE,
    SIDE,
    STABLE_BITS,
    VERTICAL,
    as_words,
    distances,
    hash_image,
    hash_jpeg,
)
from tests.support.shards import jpeg, picture

PHOTOS = sorted((Path(__file__).parents[3] / "demo" / "assets" / "photos").glob("*.jpg"))


def apart(one: np.ndarray | None, other: np.ndarray | None, *, mirrored: bool = True) -> int:
    assert one is not None and other is not None
    return int(distances(as_words(one[None]), as_words(other[None]), mirrored=mirrored)[0])


def test_the_transform_is_the_cosine_transform() -> None:
    """Against its definition in float64: rows are orthonormal up to the rounding of 12 bits."""
    x = np.arange(SIDE)
    exact = np.array([np.cos(np.pi * (2 * x + 1) * k / (2 * SIDE)) for k in range(SIDE)]) * np.sqrt(2 / SIDE)
    exact[0] /= np.sqrt(2)
    assert np.abs(COSINES / SCALE - exact).max() <= 0.5 / SCALE
    assert (COSINES[1::2] == -COSINES[1::2, ::-1]).all() and (COSINES[::2] == COSINES[::2, ::-1]).all()


def test_the_bits_are_the_lowest_frequencies_without_the_mean() -> None:
    assert len(VERTICAL) == NUM_BITS == len(set(zip(VERTICAL.tolist(), HORIZONTAL.tolist(), strict=True)))
    assert (VERTICAL + HORIZONTAL).min() == 1
    radius = VERTICAL**2 + HORIZONTAL**2
    assert (np.diff(radius) >= 0).all()
    inside = sum(v * v + h * h < radius.max() for v in range(SIDE) for h in range(SIDE)) - 1
    assert inside <= NUM_BITS, "no lower frequency is left out"
    assert (HORIZONTAL[STABLE_BITS] % 2 == 0).all() and np.unpackbits(MIRROR)[STABLE_BITS].sum() == 0


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_copies_are_near_and_other_images_are_far(path: Path) -> None:
    """A photograph, half as large or at quality 50, within 16 bits; another photograph beyond 64."""
    photo = Image.open(path).convert("RGB")
    original = hash_jpeg(jpeg(photo, 95))
    half = photo.resize((photo.width // 2, photo.height // 2), Image.Resampling.BICUBIC)
    assert apart(original, hash_jpeg(jpeg(half, 90))) <= 16
    assert apart(original, hash_jpeg(jpeg(photo, 50))) <= 16
    for other in PHOTOS:
        if other != path:
            assert apart(original, hash_jpeg(other.read_bytes())) > 64


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.stem)
def test_a_mirror_image_is_one_exclusive_or_away(path: Path) -> None:
    """Except for coefficients in the dead zone: a handful of bits. Without the mask half of the bits differ."""
    photo = Image.open(path).convert("RGB")
    original, mirrored = hash_image(photo), hash_image(ImageOps.mirror(photo))
    assert apart(original, mirrored) <= 16
    assert apart(original, mirrored, mirrored=False) > 64
    assert original is not None and mirrored is not None
    assert int(np.bitwise_count(original ^ MIRROR ^ mirrored).sum()) == apart(original, mirrored)


def test_a_symmetric_drawing_is_near_its_own_copies() -> None:
    """Its odd coefficients are nothing but compression noise, which the dead zone keeps out of the hash."""
    drawing = Image.new("RGB", (200, 200), "white")
    pen = ImageDraw.Draw(drawing)
    pen.ellipse((30, 30, 169, 169), fill="gold", outline="black", width=5)
    pen.rectangle((60, 70, 80, 90), fill="black")
    pen.rectangle((119, 70, 139, 90), fill="black")
    pen.arc((60, 80, 139, 149), 20, 160, fill="black", width=6)
    copies = [hash_jpeg(jpeg(drawing.resize((side, side)), quality)) for side, quality in ((200, 95), (120, 70))]
    assert apart(*copies) <= 16


def test_flat_images_have_no_hash() -> None:
    """One gray, and noise of one level: nothing to compare. A soft picture still has one."""
    rng = np.random.default_rng(0)
    assert hash_image(Image.new("RGB", (300, 200), (90, 120, 10))) is None
    noise = (128 + rng.integers(0, 2, (300, 300))).astype(np.uint8)
    assert hash_jpeg(jpeg(Image.fromarray(noise).convert("RGB"))) is None
    assert hash_image(picture(1)) is not None


def test_the_hash_is_a_fact_of_the_pixels() -> None:
    """Recorded once: another machine or release that gives other bits would mix two kinds of features."""
    made = hash_image(picture(7, 96, 96))
    assert made is not None
    assert made.tobytes().hex() == RECORDED


def test_a_broken_jpeg_is_an_error_not_a_hash() -> None:
    with pytest.raises(OSError):
        hash_jpeg(jpeg(picture(1))[:200])
    with pytest.raises(OSError):
        hash_jpeg(io.BytesIO(b"no picture").getvalue())


RECORDED = "7961089fb3e6914cc27cfc21e9c44a4160c5c24d4f028a088907048022080404"
