"""Reads text and JSON from other people's files: a byte order mark is skipped, nesting is limited."""

from __future__ import annotations

import json
import re
from typing import Any

MAX_DEPTH = 64
"""Levels of lists and objects. Python's own limit depends on its version and on the caller's stack."""
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
# A string, also one that never ends; or a bracket. Possessive, so that hostile text is read once.
TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def decode_text(data: bytes) -> str:
    """UTF-8 without its byte order mark.

    Raises: ValueError for bytes that are not UTF-8, and for zero bytes, which in a text mean UTF-16 or UTF-32.
    """
    if data.startswith(UTF16_MARKS) or b"\0" in data:
        raise ValueError("not UTF-8 but UTF-16 or UTF-32")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8: byte {data[error.start]:#04x} at {error.start}") from error


def parse_json(data: bytes) -> Any:
    """The value of a JSON text in UTF-8. Of a name that an object has twice, the last value counts.

    Raises: ValueError with the reason, also for nesting deeper than MAX_DEPTH; no other error.
    """
    text = decode_text(data)
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
        _check_depth(data)
    return json.loads(text)


NOT_UTF8_HINT = "rename it; or, where the name is UTF-8 and the locale is not, set LC_ALL=C.UTF-8"
"""Hint of the error for a word on the command line that `is_unicode` refuses."""


def is_unicode(text: str) -> bool:
    """False for text with lone surrogates, which JSON escapes and undecodable bytes leave behind."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_depth(data: bytes) -> None:
    depth = 0
    for token in TOKEN.finditer(data):
        first = token[0][:1]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
        elif first != b'"':
            depth -= 1
