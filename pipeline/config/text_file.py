"""Small text files that a person wrote, such as recipes and DeepSpeed's JSON: UTF-8, or with a byte order mark."""

from __future__ import annotations

import codecs
from pathlib import Path

from albef.errors import ConfigError
from samples.plain_file import read_plain
from samples.quote import quote

MAX_BYTES = 1 << 20
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
"""Byte order marks that editors on Windows write; a file without one is UTF-8."""


def read_text(path: Path, what: str, hint: str) -> str:
    """The text of a file of up to a megabyte.

    Args:
        what: for messages: `a recipe`.
        hint: how to fix it.
    Raises: ConfigError when it is no regular file, cannot be read, is too large, or is no text.
    """
    try:
        data = read_plain(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(f"{quote(path)} cannot be read as {what}: {quote(why)}", hint) from None
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{quote(path)} is no text in UTF-8: {error.reason} at byte {error.start}", hint) from None
