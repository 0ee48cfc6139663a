"""The annotation lists of grounding (`refcoco+_train.json`, ...): an image, a phrase, what it refers to."""

from __future__ import annotations

from typing import Any

from pipeline.data.annotations.entries import Entry, Format, text_of


def pair_of(value: dict[str, Any]) -> Entry:
    """One entry to train on: the image, whose path is its identity, and the phrase. A box beside them is not read.

    Raises: ValueError with what is wrong with it.
    """
    name = text_of(value, "image")
    return Entry(images=(name,), row={"captions": [text_of(value, "text")], "identity": f"image {name}"})


PAIRS = Format(layout='{"image": path, "text": phrase}', check=pair_of)
