"""Small text files that a person wrote, as recipes and DeepSpeed's JSON: regular files, in UTF-8 or with a mark."""

from __future__ import annotations

import codecs
import os
import stat
from pathlib import Path

from albef.errors import ConfigError
from samples.quote import quote

MAX_BYTES = 1 << 20
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
"""Byte order marks that editors of Windows write; without one it is UTF-8."""


def read_text(path: Path, what: str, hint: str) -> str:
    """The text of a file of up to a megabyte.

    Args:
        what: for messages: `a recipe`.
        hint: the way out.
    Raises: ConfigError for what is no file, cannot be read, is too large, or is no text.
    """
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigError(f"{quote(path)} is no file: {what} is expected there", hint)
            data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ConfigError(f"{quote(path)} cannot be read: {quote(why)}", hint) from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{quote(path)} has more than {MAX_BYTES:,} bytes, too many for {what}", hint)
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{quote(path)} is no text in UTF-8: {error.reason} at byte {error.start}", hint) from None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe would wait for its writer
