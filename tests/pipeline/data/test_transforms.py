"""The training augmentation: torchvision's crop, in distribution and in pixels; nothing but named draws."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as reference
from torchvision.transforms.v2 import RandomResizedCrop

from albef.inputs.preprocess import normalise_bytes
from pipeline.config.sections import AugmentConfig
from pipeline.data.seeds import Draws
from pipeline.data.transforms import as_bytes, crop_resize, random_crop, training_image
from tests.support.shards import jpeg, picture

PLAIN = AugmentConfig(flip_probability=0.0, randaugment_ops=0)


def as_opened(image: Image.Image, quality: int = 95) -> Image.Image:
    """The image through a JPEG file, not yet decoded."""
    return Image.open(io.BytesIO(jpeg(image, quality)))


def test_an_image_is_a_function_of_its_file_and_its_draws():
    """The same draws give the same tensor, also when others were drawn in between; another epoch gives another."""
    data = jpeg(picture(3, 120, 90))

    def augmented(*name: int | str) -> torch.Tensor:
        return training_image(data, "k", size=64, config=AugmentConfig(), draws=Draws(*name))

    first = augmented(1, "augment", 0, "k")
    torch.rand(7)
    np.random.rand(7)
    assert first.shape == (3, 64, 64) and first.dtype == torch.uint8
    assert torch.equal(first, augmented(1, "augment", 0, "k"))
    others = [augmented(1, "augment", 1, "k"), augmented(2, "augment", 0, "k"), augmented(1, "augment", 0, "l")]
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize(("width", "height"), [(288, 400), (1000, 288), (64, 64)])
def test_crops_are_distributed_as_torchvisions(width, height):
    """Mean and spread of area, shape and place of 3,000 crops against 3,000 of RandomResizedCrop(scale=(0.2, 1))."""
    draws = Draws(0, "crop", width)
    torch.manual_seed(0)
    image = torch.empty(1, height, width)
    boxes: dict[str, list[tuple[int, int, int, int]]] = {"ours": [], "theirs": []}
    theirs = RandomResizedCrop(8, scale=(0.2, 1.0))
    for _ in range(3000):
        boxes["ours"].append(random_crop(width, height, draws, scale_min=0.2))
        drawn = theirs.make_params([image])
        left, top = drawn["left"], drawn["top"]
        boxes["theirs"].append((left, top, left + drawn["width"], top + drawn["height"]))
    figures = {}
    for who, found in boxes.items():
        left, top, right, bottom = np.array(found, dtype=float).T
        assert left.min() >= 0 and top.min() >= 0 and right.max() <= width and bottom.max() <= height
        area, shape = (right - left) * (bottom - top) / (width * height), np.log((right - left) / (bottom - top))
        figures[who] = np.stack([area, shape, (left + right) / width, (top + bottom) / height])
    for ours, other in zip(figures["ours"], figures["theirs"], strict=True):
        sigma = math.hypot(ours.std(), other.std()) / math.sqrt(3000)
        assert abs(ours.mean() - other.mean()) < 5 * sigma
        assert ours.std() == pytest.approx(other.std(), rel=0.1)


def test_an_extreme_shape_falls_back_to_the_central_crop():
    """A 4000 x 40 strip with crops of all its area never fits 4:3: the middle 53 x 40 are taken."""
    assert random_crop(4000, 40, Draws(0), scale_min=1.0) == (1973, 0, 2026, 40)


def test_pixels_are_those_of_torchvision():
    """Crop, bicubic resize, to tensor, normalise: equal to torchvision's on Pillow images, to float rounding."""
    image, box = picture(5, 300, 280), (20, 30, 220, 250)
    ours = normalise_bytes(as_bytes(crop_resize(as_opened(image), box, 128, "k")))
    theirs = reference.resized_crop(
        as_opened(image).convert("RGB"), 30, 20, 220, 200, [128, 128], reference.InterpolationMode.BICUBIC
    )
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's
    expected = reference.normalize(reference.to_tensor(theirs), mean, std)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)


def test_a_large_jpeg_decoded_small_looks_the_same():
    """1200 x 900 to 64 pixels is decoded at a quarter: within one step of 255 on average, not shifted."""
    image, box = picture(7, 1200, 900), (101, 55, 1113, 777)
    opened = as_opened(image)
    small = np.asarray(crop_resize(opened, box, 64, "k")).astype(int)
    assert opened.size == (300, 225)
    full = np.asarray(as_opened(image).convert("RGB").crop(box).resize((64, 64), Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(small - full).mean() < 1
    shifted = np.abs(np.roll(small, 1, axis=1)[:, 1:] - full[:, 1:]).mean()
    assert np.abs(small - full).mean() < shifted / 5


def test_switches_turn_parts_off():
    """No flip, no RandAugment, no crop below the whole area: a square image comes out resized and nothing else."""
    data = jpeg(picture(9, 64, 64))
    config = AugmentConfig(crop_scale_min=1.0, flip_probability=0.0, randaugment_ops=0)
    plain = as_bytes(Image.open(io.BytesIO(data)).convert("RGB"))
    same = [
        torch.equal(plain, training_image(data, "k", size=64, config=config, draws=Draws(seed))) for seed in range(200)
    ]
    # Even at full area only the square shape fits; ten others may be drawn first, then the fallback is the whole image.
    assert all(same)
    flipped = AugmentConfig(crop_scale_min=1.0, flip_probability=1.0, randaugment_ops=0)
    assert torch.equal(plain.flip(2), training_image(data, "k", size=64, config=flipped, draws=Draws(0)))


def test_without_a_crop_the_whole_image_is_squashed():
    """As the original does in grounding: a wide image loses nothing at its sides."""
    image = picture(9, 200, 64)
    config = AugmentConfig(crop_scale_min=None, flip_probability=0.0, randaugment_ops=0)
    data = jpeg(image)
    whole = Image.open(io.BytesIO(data)).convert("RGB").resize((48, 48), Image.Resampling.BICUBIC)
    for seed in range(20):
        found = training_image(data, "k", size=48, config=config, draws=Draws(seed))
        assert torch.equal(found, as_bytes(whole))


def test_gray_palette_and_cmyk_images_become_rgb():
    """Every mode a shard may hold is brought to three channels."""
    for mode in ("L", "CMYK"):
        data = jpeg(picture(2, 80, 80).convert(mode))
        assert training_image(data, "k", size=32, config=PLAIN, draws=Draws(0)).shape == (3, 32, 32)
