"""Text files as other tools save them: UTF-8 with or without a byte order mark; other encodings are named in an error.

The mark is no part of the content: read as content it would spoil the first name, caption or row.
"""

from __future__ import annotations

import codecs

MARK = codecs.BOM_UTF8
HEAD_BYTES = 256
"""Bytes of a file that `wide_encoding` needs."""
_MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark begins it
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def wide_encoding(head: bytes) -> str | None:
    """`UTF-16LE` and the like where a file that begins with `head` is text in wide characters; None for anything else.

    Excel's "Unicode Text" and PowerShell's redirection write such files. One without a mark is known by its NULs: every
    other byte of Latin text in UTF-16, three of four in UTF-32.
    """
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    sample = head[: len(head) // 4 * 4]
    if len(sample) < 8 or 0 not in sample:
        return None
    zeros = [sample[offset::4].count(0) > len(sample) // 8 for offset in range(4)]
    layouts = {(0, 1, 1, 1): "UTF-32LE", (1, 1, 1, 0): "UTF-32BE", (0, 1, 0, 1): "UTF-16LE", (1, 0, 1, 0): "UTF-16BE"}
    return layouts.get(tuple(map(int, zeros)))  # type: ignore[arg-type]


def conversion_hint(encoding: str) -> str:
    """How to make UTF-8 of a file in `encoding`: the way out of an error that names it."""
    return f"convert it to UTF-8: iconv -f {encoding} -t UTF-8 FILE > NEW"
