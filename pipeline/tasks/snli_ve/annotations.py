"""The official annotation lists of SNLI-VE (`ve_train.json`, `ve_dev.json`, `ve_test.json`), entry by entry.

The premise is the image alone. A text premise beside it, as in SNLI, is not read: with it, scores are far too high.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from albef.inputs.snli_ve_batch import CLASSES
from pipeline.data.annotations.entries import Entry, Format, text_of
from samples.captions import clean_caption
from samples.quote import quote

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")


def entry_of(value: dict[str, Any]) -> Entry:
    """One entry: the image, whose name may lack its `.jpg`, the sentence, and the number of its label.

    Raises: ValueError with what is wrong with it.
    """
    name, sentence, label = (text_of(value, key) for key in ("image", "sentence", "label"))
    if label not in CLASSES:
        raise ValueError(f"has the label {quote(label)}, which is none of {', '.join(CLASSES)}")
    if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
        name += ".jpg"
    return Entry(images=(name,), row={"sentence": sentence, "label": CLASSES.index(label)})


FORMAT = Format(
    layout='{"image": name, with or without .jpg, "sentence": text, "label": "' + '" or "'.join(CLASSES) + '"}',
    check=entry_of,
)


def sentence_of(row: dict[str, Any], max_words: int) -> str:
    """The hypothesis, cleaned as the model was trained."""
    return clean_caption(row["sentence"], max_words=max_words)
