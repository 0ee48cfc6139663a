"""Cleans captions and questions before the tokenizer, as the model was trained (official dataset/utils.py)."""

from __future__ import annotations

import re

REMOVED = re.compile(r"[,.'!?\"()*#:;~]")
BLANKS = re.compile(r"\s{2,}")


def clean_caption(text: str, max_words: int | None = 30, *, name_mask: bool = True) -> str:
    """A caption in lower case, without punctuation, single-spaced, cut to `max_words` words.

    `,.'!?"()*#:;~` are removed, `-` and `/` become blanks, `<person>` (CC12M's mask for names) becomes `person`. The
    result may be empty; the caller decides what that means.

    Args:
        text: the caption.
        max_words: keep at most this many words; None keeps all.
        name_mask: turn `<person>` into `person`; the official notebook and demo (predict.py) leave it.

    Raises: TypeError when `text` is no string.
    """
    text = _plain(text)
    if name_mask:
        text = text.replace("<person>", "person")
    text = BLANKS.sub(" ", text).rstrip("\n").strip(" ")
    return _first_words(text, max_words)


def clean_question(text: str, max_words: int | None = 30) -> str:
    """As `clean_caption`, for a question of VQA: runs of blanks and leading ones stay, `<person>` stays."""
    return _first_words(_plain(text).rstrip(" "), max_words)


def _plain(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a caption is one string, not a value of type {type(text).__name__}")
    return REMOVED.sub("", text.lower()).replace("-", " ").replace("/", " ")


def _first_words(text: str, max_words: int | None) -> str:
    words = text.split(" ")
    return text if max_words is None or len(words) <= max_words else " ".join(words[:max_words])
