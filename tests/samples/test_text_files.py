"""Encodings of text files as other tools save them."""

from __future__ import annotations

import pytest

from samples.text_files import wide_encoding


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_characters_are_named_with_and_without_a_mark(encoding: str) -> None:
    """A mark names the width; without one the NULs of Latin text give width and order away."""
    text = "url\tcaption\nhttp://a/1.jpg\tein Hund, 犬\n"
    expected = "".join(encoding.upper().rsplit("-", 1))
    assert wide_encoding(text.encode(encoding)) == expected
    assert wide_encoding("\ufeff".encode(encoding) + text.encode(encoding)) == expected[:6]


@pytest.mark.parametrize("data", [b"", b"a", b"url\tcaption\n", "犬\n".encode(), b"caf\xe9", b"one\0NUL in a line\n"])
def test_what_is_no_wide_text_is_left_to_its_reader(data: bytes) -> None:
    """UTF-8, Latin-1, a stray NUL."""
    assert wide_encoding(data) is None
    assert wide_encoding(b"\xef\xbb\xbf" + data) is None
