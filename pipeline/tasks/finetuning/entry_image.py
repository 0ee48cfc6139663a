"""The image of an entry to evaluate: one that cannot be used is an error, because a part would have another score."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

from albef.errors import DataError
from albef.inputs.preprocess import preprocess_image
from pipeline.data.annotations.corpus import AnnotationCorpus
from pipeline.data.corpus.reader import BadSample
from pipeline.data.decode import load_pixels, open_image
from samples.quote import quote


def entry_image(corpus: AnnotationCorpus, index: int, image_size: int) -> Tensor:
    """(3, H, W) normalised: the first image of entry `index`. Raises: DataError when it cannot be used.

    Args:
        image_size: H and W, pixels.
    """
    (ref,) = corpus.locate(np.array([index]))
    try:
        sample = corpus.reader().read(ref)
        picture: Image.Image = load_pixels(open_image(sample.images[0], ref.name), ref.name)
    except BadSample as bad:
        raise DataError(
            f"entry {quote(ref.name)} of {quote(ref.path)} cannot be used: {quote(bad, 200)}",
            "an evaluation needs all of its images: fix that one, or remove the entry",
        ) from bad
    return preprocess_image(picture, image_size)
