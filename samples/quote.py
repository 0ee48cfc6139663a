"""Text out of other people's files as a message shows it: on one line, without control characters, cut.

A name in a tar, a caption or a cell of a list may hold escape sequences that repaint a terminal, newlines that forge a
line of a log, or a megabyte of text.
"""

from __future__ import annotations

import unicodedata

LIMIT = 100
"""Characters shown of one value; no message shows more than 200 characters of input."""

UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that are escaped: controls, direction marks, surrogates, line and paragraph separators."""


def quote(value: object, limit: int = LIMIT) -> str:
    r"""`str(value)` for a message: `\x1b`, `\n`, `\u202e` and the like escaped, and cut to `limit` characters.

    Args:
        value: what is shown; only as much of a long text as can be seen is looked at.
        limit: characters of the result, the three dots of a cut one included.
    """
    text = str(value)
    shown = "".join(map(_visible, text[: limit + 1]))
    return shown if len(text) <= limit and len(shown) <= limit else shown[: max(0, limit - 3)] + "..."


def one_line(text: str) -> str:
    """The whole text with its control characters escaped: the last guard where a message is printed."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character == " " or unicodedata.category(character) not in UNPRINTABLE:
        return character
    return character.encode("unicode_escape").decode("ascii")
