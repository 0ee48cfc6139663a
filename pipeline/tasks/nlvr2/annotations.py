"""The annotation lists of NLVR2 as ALBEF's authors publish them (`nlvr_train.json` and others), entry by entry."""

from __future__ import annotations

from typing import Any

from pipeline.data.annotations.entries import Entry, Format, text_of
from samples.captions import clean_caption
from samples.quote import quote

LABELS = ("False", "True")
"""As the files spell them, in the order of `albef.inputs.nlvr2_batch.CLASSES`."""


def entry_of(value: dict[str, Any]) -> Entry:
    """One entry: its two images, in their order, the statement, and the number of its label.

    Raises: ValueError with what is wrong with it.
    """
    sentence, label = text_of(value, "sentence"), text_of(value, "label")
    if label not in LABELS:
        raise ValueError(f"has the label {quote(label)}, which is none of {', '.join(LABELS)}")
    images = value.get("images")
    if not isinstance(images, list) or len(images) != 2 or not all(isinstance(name, str) for name in images):
        raise ValueError(f"has {quote(repr(images), 40)} as images, which are not two names")
    return Entry(images=tuple(images), row={"sentence": sentence, "label": LABELS.index(label)})


FORMAT = Format(
    layout='{"images": [name, name], "sentence": text, "label": "' + '" or "'.join(LABELS) + '"}', check=entry_of
)


def sentence_of(row: dict[str, Any], max_words: int) -> str:
    """The statement, cleaned as the model was trained."""
    return clean_caption(row["sentence"], max_words=max_words)
