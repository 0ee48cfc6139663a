"""Cleaning of captions, where the recordings do not reach."""

from __future__ import annotations

import pytest

from samples.captions import clean_caption, clean_question


def test_no_limit_keeps_every_word() -> None:
    """None in place of a number of words."""
    words = " ".join(f"w{i}" for i in range(200))
    assert clean_caption(words, None) == words == clean_question(words, None)
    assert clean_caption(words).count(" ") == 29


def test_cleaning_twice_is_cleaning_once() -> None:
    """So text that was already cleaned can be given to anything that cleans."""
    for text in ("<person>'s Dog - running/jumping!  ", "A: b; c.", "...", "tab\tand\nnewline"):
        assert clean_caption(clean_caption(text)) == clean_caption(text)


def test_a_caption_of_punctuation_becomes_empty() -> None:
    """The loader counts it as an empty caption; nothing crashes."""
    assert clean_caption("!!! ... ???") == ""


def test_what_is_no_text_is_a_type_error() -> None:
    """Bytes and lists of words have much of what a string has; the error names the type."""
    for value in (b"a dog", ["a", "dog"], None, 5, float("nan")):
        for clean in (clean_caption, clean_question):
            with pytest.raises(TypeError, match=f"one string, not a value of type {type(value).__name__}"):
                clean(value)  # type: ignore[arg-type]
