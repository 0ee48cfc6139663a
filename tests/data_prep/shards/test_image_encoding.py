"""What becomes of one image's bytes: right colours, size and orientation, or a reason."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image

from data_prep.output.job import ImageSettings
from data_prep.shards.image_encoding import EncodedImage, encode_image
from samples.image import ImageRefused
from tests.support import hostile_images as hostile
from tests.support.hostile_images import BLUE, GREEN, RED, WHITE, halves, jpeg, rotated_jpeg, saved

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = ImageSettings(image_size=64)
NEAR = 6  # of 255: a flat colour after JPEG at quality 95


def colours(encoded: EncodedImage) -> tuple[np.ndarray, np.ndarray]:
    """Mean colour of the middle of the left and of the right half."""
    image = Image.open(io.BytesIO(encoded.jpeg))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (encoded.width, encoded.height))
    pixels = np.asarray(image, dtype=float)
    width = pixels.shape[1]
    return pixels[:, width // 8 : 3 * width // 8].mean((0, 1)), pixels[:, 5 * width // 8 : 7 * width // 8].mean((0, 1))


GRAY_64, GRAY_192 = (64, 64, 64), (192, 192, 192)
LOOKS: dict[str, tuple[Callable[[], bytes], tuple, tuple]] = {
    "jpeg": (jpeg, RED, BLUE),
    "progressive jpeg": (lambda: jpeg(progressive=True), RED, BLUE),
    "png": (lambda: saved(halves(), "PNG"), RED, BLUE),
    "webp": (lambda: saved(halves(), "WEBP", lossless=True), RED, BLUE),
    "avif": (lambda: saved(halves(), "AVIF", quality=90), RED, BLUE),
    "bmp": (lambda: saved(halves(), "BMP"), RED, BLUE),
    "tiff": (lambda: saved(halves(), "TIFF"), RED, BLUE),
    "gif": (lambda: saved(halves(), "GIF"), RED, BLUE),
    "animated gif": (lambda: hostile.animated("GIF"), RED, BLUE),
    "animated webp": (lambda: hostile.animated("WEBP"), RED, BLUE),
    "gray jpeg": (lambda: jpeg(halves(left=64, right=192, mode="L")), GRAY_64, GRAY_192),
    "black and white png": (lambda: saved(halves(left=0, right=1, mode="1"), "PNG"), (0, 0, 0), WHITE),
    "palette png": (lambda: saved(halves().convert("P", palette=Image.Palette.ADAPTIVE), "PNG"), RED, BLUE),
    "cmyk jpeg": (lambda: jpeg(halves().convert("CMYK")), RED, BLUE),
    "alpha png": (hostile.transparent_png, RED, WHITE),
    "gray alpha png": (lambda: hostile.transparent_png("LA"), (90, 90, 90), WHITE),
    "palette alpha png": (lambda: hostile.transparent_png("P"), RED, WHITE),
    "alpha webp": (
        lambda: saved(halves(left=(*RED, 255), right=(0, 0, 0, 0), mode="RGBA"), "WEBP", lossless=True),
        RED,
        WHITE,
    ),
    "16-bit gray png": (hostile.sixteen_bit_png, GRAY_64, GRAY_192),
    "16-bit colour png": (hostile.sixteen_bit_rgb_png, RED, BLUE),
    "16-bit gray tiff": (
        lambda: saved(
            Image.fromarray(np.tile(np.repeat(np.array([0x4000, 0xC000], np.uint16), 100), (120, 1))), "TIFF"
        ),
        GRAY_64,
        GRAY_192,
    ),
}


@pytest.mark.parametrize("name", LOOKS)
def test_every_kind_becomes_rgb_with_its_colours(name: str) -> None:
    """200 x 120 of two flat colours: shortest side 64, aspect kept, both colours where they were."""
    make, left, right = LOOKS[name]
    encoded = encode_image(make(), SETTINGS)
    assert (encoded.width, encoded.height) == (107, 64)
    assert (encoded.original_width, encoded.original_height) == (200, 120)
    for got, wanted in zip(colours(encoded), (left, right), strict=True):
        assert np.abs(got - wanted).max() < NEAR, f"{name}: {got} instead of {wanted}"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    """All eight orientations come out as the same upright picture, without the tag that would turn it again."""
    encoded = encode_image(rotated_jpeg(orientation), SETTINGS)
    assert (encoded.width, encoded.height) == (107, 64)
    assert (encoded.original_width, encoded.original_height) == (200, 120)
    for got, wanted in zip(colours(encoded), (RED, BLUE), strict=True):
        assert np.abs(got - wanted).max() < NEAR, f"orientation {orientation}: {got} instead of {wanted}"
    assert Image.open(io.BytesIO(encoded.jpeg)).getexif().get(0x0112) is None


def test_exif_rotation_of_a_tiff_is_applied_once() -> None:
    """Pillow turns a TIFF by itself on loading; turning it again would lay it on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = encode_image(saved(halves().transpose(Image.Transpose.ROTATE_90), "TIFF", exif=exif), SETTINGS)
    assert (encoded.width, encoded.height, encoded.original_width) == (107, 64, 200)
    assert np.abs(colours(encoded)[0] - RED).max() < NEAR


@pytest.mark.parametrize(
    ("original", "stored"),
    [
        ((64, 64), (64, 64)),
        ((40, 30), (40, 30)),
        ((63, 500), (63, 500)),
        ((65, 500), (64, 492)),
        ((3000, 2000), (96, 64)),
        ((129, 128), (64, 64)),
    ],
)
def test_shortest_side_shrinks_to_the_size_and_is_never_enlarged(
    original: tuple[int, int], stored: tuple[int, int]
) -> None:
    """width x height of the original and of what is stored: no border, no crop, no enlargement."""
    encoded = encode_image(jpeg(halves(*original)), SETTINGS)
    assert (encoded.width, encoded.height) == stored


def test_shrinking_a_large_jpeg_keeps_its_detail() -> None:
    """Decoding at 1/4 must not differ visibly from decoding whole and filtering once."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (150, 200), dtype=np.uint8))
    original = coarse.resize((1600, 1200), Image.Resampling.BICUBIC)
    stored = Image.open(io.BytesIO(encode_image(jpeg(original), SETTINGS).jpeg)).convert("L")
    whole = original.resize((85, 64), Image.Resampling.BICUBIC)
    difference = np.asarray(stored, dtype=float) - np.asarray(whole, dtype=float)
    assert np.abs(difference).mean() < 3  # of 255, the JPEG encodings included: 1.8; nearest neighbour is off by 39


@pytest.mark.parametrize("factor", [1.05, 1.2, 1.5, 1.9])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_a_photograph_shrunk_by_less_than_half_stays_near_lanczos(name: str, factor: float) -> None:
    """Peak signal to noise in dB against Pillow's Lanczos. Without smoothing it is 35, by area averaging 38."""
    photo = Image.fromarray(getattr(skimage.data, name)()).convert("L")
    photo = photo.resize((round(341 * factor), round(256 * factor)), Image.Resampling.LANCZOS)
    encoded = encode_image(saved(photo, "PNG"), ImageSettings(image_size=256, jpeg_quality=100))
    wanted = np.asarray(photo.resize((encoded.width, encoded.height), Image.Resampling.LANCZOS), dtype=float)
    stored = np.asarray(Image.open(io.BytesIO(encoded.jpeg)).convert("L"), dtype=float)
    assert 20 * np.log10(255 / np.sqrt(((stored - wanted) ** 2).mean())) > 41


BYTES_OF_SHRUNK_IMAGES = """
import hashlib, io, numpy as np
from PIL import Image
from data_prep.shards.image_encoding import ImageSettings, encode_image
noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 403, 3), dtype=np.uint8))
buffer = io.BytesIO()
noise.save(buffer, "PNG")
jpegs = [encode_image(buffer.getvalue(), ImageSettings(image_size=size)).jpeg for size in (160, 200, 256, 299)]
print(hashlib.sha256(b"".join(jpegs)).hexdigest())
"""


def test_the_bytes_do_not_depend_on_the_processor() -> None:
    """OpenCV chooses its routines by what the processor can do, Intel's library inside it too."""

    def shrunk(**environment: str) -> str:
        words = [sys.executable, "-c", BYTES_OF_SHRUNK_IMAGES]
        environment = {**os.environ, **environment}
        done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert shrunk() == shrunk(OPENCV_CPU_DISABLE="AVX2,FMA3,AVX", OPENCV_IPP="sse42")


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "nothing": (lambda: b"", "empty_body"),
    "html": (lambda: b"\n <!DOCTYPE html><html><body>not found</body></html>", "html_instead_of_image"),
    "svg": (lambda: b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported_format"),
    "words": (lambda: b"this is not an image", "not_an_image"),
    "noise": (lambda: bytes(range(256)) * 8, "not_an_image"),
    "truncated jpeg": (lambda: jpeg()[:900], "truncated_image"),
    "truncated png": (lambda: saved(Image.effect_noise((200, 120), 90), "PNG")[:-4000], "truncated_image"),
    "jpeg cut in its header": (lambda: jpeg()[:20], "broken_image"),
    "20,000 px": (hostile.enormous_png, "too_many_pixels"),
    "a png two billion pixels wide": (hostile.wide_png, "too_many_pixels"),
    "a gif of four billion pixels": (hostile.wide_gif, "too_many_pixels"),
    "a jpeg of four billion pixels": (hostile.wide_jpeg, "too_many_pixels"),
    "a comment that unpacks to 200 MB": (hostile.bomb_in_a_comment, "broken_image"),
    "a strip too long for a JPEG": (lambda: saved(Image.new("L", (70_000, 2)), "PNG"), "side_too_long"),
    "floating point": (lambda: saved(Image.new("F", (20, 20)), "TIFF"), "unsupported_format"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused_with_its_reason(name: str) -> None:
    make, reason = REFUSED[name]
    with pytest.raises(ImageRefused) as refused:
        encode_image(make(), SETTINGS)
    assert refused.value.reason == reason, str(refused.value)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_no_byte_of_a_damaged_image_escapes_as_another_error() -> None:
    """400 damaged files: each is encoded or refused, and no other error of Pillow comes up."""
    rng = np.random.default_rng(7)
    whole = [jpeg(), saved(halves(), "PNG"), saved(halves(), "WEBP"), saved(halves(), "GIF"), saved(halves(), "TIFF")]
    for _ in range(400):
        data = bytearray(whole[rng.integers(len(whole))])
        for position in rng.integers(0, min(len(data), 600), size=4):
            data[position] = rng.integers(256)
        try:
            encode_image(bytes(data), SETTINGS)
        except ImageRefused as refused:
            assert refused.reason and refused.detail


def test_the_same_bytes_encode_to_the_same_bytes() -> None:
    assert encode_image(jpeg(), SETTINGS) == encode_image(jpeg(), SETTINGS)


def test_a_frame_painted_green_is_never_the_one_stored() -> None:
    """The second frame of an animation is green; no stored pixel is near it."""
    left, right = colours(encode_image(hostile.animated("GIF"), SETTINGS))
    assert min(np.abs(left - GREEN).max(), np.abs(right - GREEN).max()) > 50
