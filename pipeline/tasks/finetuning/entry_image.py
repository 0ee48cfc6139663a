"""The images of an entry to evaluate: one that cannot be used is an error, because a part would have another score."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from albef.errors import DataError
from albef.inputs.preprocess import preprocess_image
from pipeline.data.annotations.corpus import AnnotationCorpus
from pipeline.data.corpus.reader import BadSample
from pipeline.data.decode import load_pixels, open_image
from samples.quote import quote


def entry_image(corpus: AnnotationCorpus, index: int, image_size: int) -> Tensor:
    """(3, H, W): the first of `entry_images`."""
    return entry_images(corpus, index, image_size)[0]


def entry_images(corpus: AnnotationCorpus, index: int, image_size: int) -> Tensor:
    """(K, 3, H, W) normalised: the images of entry `index`. Raises: DataError when one cannot be used.

    Args:
        image_size: H and W, pixels.
    """
    return torch.stack([preprocess_image(picture, image_size) for picture in entry_pictures(corpus, index)])


def entry_pictures(corpus: AnnotationCorpus, index: int) -> list[Image.Image]:
    """The K images of entry `index`, upright, in RGB. Raises: DataError when one cannot be used."""
    (ref,) = corpus.locate(np.array([index]))
    try:
        sample = corpus.reader().read(ref)
        return [load_pixels(open_image(image, ref.name), ref.name) for image in sample.images]
    except BadSample as bad:
        raise DataError(
            f"entry {quote(ref.name)} of {quote(ref.path)} cannot be used: {quote(bad, 200)}",
            "an evaluation needs all of its images: fix that one, or remove the entry",
        ) from bad
