"""Evaluation preprocessing against torchvision's transforms, and pictures of unusual modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from albef.inputs.preprocess import MEAN, STD, normalise_bytes, preprocess_image, preprocess_images
from samples.image import to_rgb


def picture(width: int, height: int, channels: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values.squeeze())


@pytest.mark.parametrize("size", [(37, 61), (500, 90), (16, 16), (32, 32)])
def test_it_is_the_originals_transform(size: tuple[int, int]) -> None:
    """Resize of both sides (antialiased bicubic of PIL), ToTensor, Normalize: equal to the last rounding."""
    original = transforms.Compose(
        [
            transforms.Resize((32, 32), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    image = picture(*size)
    ours = preprocess_image(image, 32)
    assert ours.shape == (3, 32, 32) and ours.dtype == torch.float32
    assert torch.equal(ours, original(image))


def test_a_batch_is_its_pictures() -> None:
    """Pictures of different sizes in one tensor; none gives an empty one."""
    images = [picture(20, 30), picture(50, 10)]
    assert torch.equal(preprocess_images(images, 16)[1], preprocess_image(images[1], 16))
    assert preprocess_images([], 16).shape == (0, 3, 16, 16)


def test_transparency_becomes_white() -> None:
    """Half transparent red on white, in RGBA, grey with alpha and a palette."""
    red = Image.new("RGBA", (2, 2), (255, 0, 0, 128))
    assert to_rgb(red).getpixel((0, 0)) == (255, 127, 127)
    assert to_rgb(Image.new("LA", (2, 2), (0, 0))).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([9, 9, 9] * 256)
    palette.info["transparency"] = 0
    assert to_rgb(palette).getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_deep_grey_is_scaled_not_clipped(mode: str) -> None:
    """65,535 is white, half of it middle grey; PIL's own conversion makes both white."""
    values = np.array([[0, 32_768, 65_535]], dtype=np.uint16)
    image = Image.fromarray(values) if mode == "I;16" else Image.fromarray(values.astype(np.int32))
    assert image.mode == mode
    rgb = to_rgb(image)
    assert [rgb.getpixel((x, 0)) for x in range(3)] == [(0, 0, 0), (128, 128, 128), (255, 255, 255)]


def test_a_16_bit_file_is_scaled(tmp_path) -> None:
    """The same through a PNG on disk."""
    Image.fromarray(np.full((4, 4), 32_768, dtype=np.uint16)).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as image:
        assert to_rgb(image).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "YCbCr", "HSV"])
def test_other_modes_become_rgb(mode: str) -> None:
    """Any mode that PIL can convert."""
    rgb = to_rgb(picture(8, 8).convert(mode))
    assert rgb.mode == "RGB" and rgb.size == (8, 8)


def test_bytes_are_normalised_as_numpy_does_it() -> None:
    """Every value of every channel, for a batch and for one image, to the bit: (x / 255 - mean) / deviation in fp32."""
    values = np.arange(256, dtype=np.uint8)
    pixels = torch.from_numpy(np.stack([values, values[::-1], values]).reshape(3, 16, 16).copy())
    mean, std = (np.array(figures, dtype=np.float32).reshape(3, 1, 1) for figures in (MEAN, STD))
    expected = torch.from_numpy((pixels.numpy().astype(np.float32) / np.float32(255) - mean) / std)
    assert torch.equal(normalise_bytes(pixels), expected)
    assert torch.equal(normalise_bytes(pixels[None].repeat(2, 1, 1, 1))[1], expected)
    assert pixels.dtype == torch.uint8 and pixels.flatten()[5] == 5  # unchanged
