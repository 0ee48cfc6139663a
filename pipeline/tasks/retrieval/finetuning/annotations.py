"""The official annotation lists of retrieval (`coco_train.json`, `coco_val.json`, ...), and a pair for each caption.

Pairs of one image are positives of each other, so every image gets a number; which pairs are of one image is what the
lists say by `image_id`, or else the image's path.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
import pyarrow as pa

from albef.errors import DataError
from pipeline.data.annotations.corpus import AnnotationCorpus, record_of
from pipeline.data.annotations.entries import Entry, Format, text_of
from pipeline.tasks.retrieval.annotations import EvaluationPairs
from samples.quote import quote
from samples.record import usable_captions

log = logging.getLogger(__name__)


def entry_of(value: dict[str, Any]) -> Entry:
    """One entry: the image, its captions, and what the list calls the image.

    Raises: ValueError with what is wrong with it.
    """
    name = text_of(value, "image")
    if "caption" not in value:
        raise ValueError("has no caption")
    captions = [value["caption"]] if isinstance(value["caption"], str) else value["caption"]
    if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
        raise ValueError(f"has {quote(repr(value['caption']), 40)} as caption, which is no text and no list of texts")
    image_id = value.get("image_id", name)
    if not isinstance(image_id, str | int) or isinstance(image_id, bool):
        raise ValueError(f"has {quote(repr(image_id), 40)} as image_id, which is no text and no whole number")
    identity = f"image_id {image_id}" if "image_id" in value else f"image {name}"
    return Entry(images=(name,), row={"captions": captions, "identity": identity})


FORMAT = Format(
    layout='{"image": path, "caption": text or list of texts, "image_id": text or number, may be missing}',
    check=entry_of,
)


def training_pairs(corpus: AnnotationCorpus) -> AnnotationCorpus:
    """The same images, with an entry for each caption: rows have `caption`, and `image_id`, the number of the image.

    Captions of which cleaning leaves nothing are left out.

    Args:
        corpus: lists in `FORMAT`.

    Raises: DataError when an `image_id` is of two images, whose pairs would count as right for each other; when no
        caption is left.
    """
    numbers: dict[str, int] = {}
    image_of: dict[str, tuple[str, str]] = {}  # the image's name, and its entry
    names: list[str] = []
    records: list[str] = []
    starts, empty = [0], 0
    for first, last in zip(corpus.starts[:-1], corpus.starts[1:], strict=True):
        for ref in corpus.locate(np.arange(first, last)):
            (image,), row = ref.fields()
            identity, captions = row["identity"], row["captions"]
            other, entry = image_of.setdefault(identity, (image, ref.name))
            if other != image:
                raise DataError(
                    f"entries {quote(entry)} and {quote(ref.name)} have the {quote(identity)} with the images "
                    f"{quote(other)} and {quote(image)}",
                    "give each image an image_id of its own, also across files; or leave image_id out, and the "
                    "image's path takes its place",
                )
            number = numbers.setdefault(identity, len(numbers))
            for place, caption in enumerate(captions):
                if not usable_captions([caption]):
                    empty += 1
                    continue
                names.append(ref.name if len(captions) == 1 else f"{ref.name}.{place}")
                records.append(record_of(Entry(images=(image,), row={"caption": caption, "image_id": number})))
        starts.append(len(names))
    if not names:
        raise DataError(f"{quote(', '.join(corpus.paths))}: no caption is left after cleaning", "give other lists")
    if empty:
        log.warning("%d captions of which cleaning leaves nothing: left out", empty)
    return dataclasses.replace(
        corpus,
        starts=np.array(starts),
        names=pa.array(names, type=pa.large_string()),
        records=pa.array(records, type=pa.large_string()),
    )


def validation_pairs(corpus: AnnotationCorpus, *, max_words: int) -> EvaluationPairs:
    """Every image of the lists with all its captions, as `evaluate retrieval` takes them. Raises: DataError."""
    captions_of: dict[str, list[str]] = {}
    for ref in corpus.locate(np.arange(corpus.num_samples)):
        (image,), row = ref.fields()
        captions_of.setdefault(image, []).extend(row["captions"])
    return EvaluationPairs.from_captions(
        captions_of, corpus.images, max_words=max_words, source=", ".join(corpus.paths)
    )
