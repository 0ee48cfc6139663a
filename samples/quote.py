"""Other people's text as messages show it: on one line, without control characters, cut.

A name in a tar, a caption or a cell of a list may hold escape sequences that repaint a terminal, newlines that forge a
line of a log, or a megabyte of text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

LIMIT = 100
"""Characters shown of one value."""
MOST = 200
"""Characters of input that a message shows at most, as of a path on the command line."""

UNPRINTABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Unicode categories that are escaped: controls, direction marks, surrogates, line and paragraph separators."""

MEMORY_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
"""Of an object whose type prints it: `<_io.BytesIO object at 0x7f31c8>`."""
LOGIN = re.compile(r"(?<=//)[^/?#\s]+@")
"""`user:password@` of a URL."""


def quote(value: object, limit: int = LIMIT) -> str:
    r"""`str(value)` for a message: `\x1b`, `\n`, `\u202e` and the like escaped, and cut to `limit` characters.

    Args:
        value: what is shown; of a long text only the visible beginning is read.
        limit: characters of the result, including the three dots of a cut one.
    """
    text = str(value)
    shown = "".join(map(_visible, text[: limit + 1]))
    return shown if len(text) <= limit and len(shown) <= limit else shown[: max(0, limit - 3)] + "..."


def quote_error(error: BaseException, limit: int = LIMIT) -> str:
    """An exception for a message or a record: type and text, without memory addresses, which differ in every run."""
    return quote(f"{type(error).__name__}: {' '.join(without_memory_addresses(str(error)).split())}", limit)


def one_line(text: str) -> str:
    """The whole text with its control characters escaped: the last guard before a message is printed."""
    return text if text.isprintable() else "".join(map(_visible, text))


def visible(text: str) -> str:
    """Several lines, each without control characters: the last guard before a command prints its output."""
    return "\n".join(map(one_line, text.split("\n")))


def printable(text: str) -> str:
    """One of our messages, which may have several lines: each without control characters, the further ones indented.

    The last guard before `error:`, `hint:` and log lines are printed. A newline from a stranger's file can start a
    line, but not one that looks like a message of ours. Passwords in URLs are removed.
    """
    first, *further = without_logins(text).split("\n")
    lines = [one_line(first), *(one_line(line if line[:1] in ("", " ") else f"  {line}") for line in further)]
    return "\n".join(lines)


def without_logins(text: str) -> str:
    """A message without the passwords in its URLs: `https://***@host/` for `https://user:password@host/`."""
    return LOGIN.sub("***@", text)


def without_memory_addresses(text: str) -> str:
    """A message without `at 0x7f...` of some object, which no reader can use and which differs in every run."""
    return MEMORY_ADDRESS.sub("", text)


def cut_words(message: str, words: Iterable[str]) -> str:
    """A message that may repeat words of the command line, with the long ones among them cut as `quote` does.

    Args:
        words: of the command line; `--flag=value` counts as a flag and a value.
    """
    for word in words:
        for part in (word, word.partition("=")[2]):
            if len(part) > MOST:
                message = message.replace(repr(part), quote(part, MOST)).replace(part, quote(part, MOST))
    return message


def _visible(character: str) -> str:
    if character == " " or unicodedata.category(character) not in UNPRINTABLE:
        return character
    return character.encode("unicode_escape").decode("ascii")
