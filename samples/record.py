"""What makes a sample usable: its record (KEY.json), and which of its captions can be trained on.

The writer follows these rules, `verify` checks them, the trainer relies on them: training skips no sample that `verify`
accepts.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable
from typing import Any

from samples.captions import clean_caption
from samples.json_text import is_unicode, parse_json
from samples.quote import quote

MAX_PIXELS = 178_956_970
"""Of a stored image, by its header: a larger one is treated as an attack on memory. It is Pillow's own default."""
MAX_SIDE = 2**31 - 1
"""Of an original, in pixels."""
FIELDS = {
    "key": str,
    "captions": list,
    "url": str,
    "source": str,
    "original_width": int,
    "original_height": int,
    "width": int,
    "height": int,
    "sha256": str,
}
OPTIONAL_FIELDS = {"id": str, "licence": str}
UNSEEN = {"Cc", "Cf", "Cs", "Co", "Mn", "Mc", "Me", "Zs", "Zl", "Zp"}
"""Unicode categories that are no content by themselves: controls, joiners, private use, marks, white space. A caption
with any other character has a token."""


class RecordFault(Exception):
    """A record without captions that can be read; `reason` is the name under which it is counted."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def stored_captions(meta: bytes) -> list[str]:
    """The captions of a sample's record; some may be unusable.

    Raises: RecordFault `json_damaged` or `caption_missing`.
    """
    try:
        record = parse_json(meta)
    except ValueError as error:
        raise RecordFault("json_damaged", str(error)) from error
    captions = record.get("captions") if isinstance(record, dict) else None
    if not captions or not _are_texts(captions):
        raise RecordFault("caption_missing", "no list of captions in it")
    return list(captions)


def usable_captions(captions: Iterable[str]) -> list[str]:
    """The captions that have visible content after cleaning: `...` and a lone joiner are no captions.

    The result does not depend on how many words a recipe keeps.
    """
    return [caption for caption in captions if is_unicode(caption) and _has_content(clean_caption(caption, None))]


def read_meta(meta: bytes) -> tuple[dict[str, Any], list[str]]:
    """A sample's record and its faults; a record without faults has all its fields, with the right types."""
    try:
        record = parse_json(meta)
    except ValueError as error:
        return {}, [f"JSON cannot be read: {error}"]
    if not isinstance(record, dict):
        return {}, ["JSON is not an object"]
    return record, _field_faults(record) or _caption_faults(record["captions"])


def check_meta(meta: bytes, key: str, image: bytes) -> tuple[dict[str, Any], list[str]]:
    """A sample's record, and all faults of the sample that can be found without decoding its image.

    Args:
        key: of the tar member.
        image: the bytes beside the record.
    """
    record, faults = read_meta(meta)
    if "key" in record and record["key"] != key:
        faults.append(f"JSON is of key {quote(record['key'])}")
    if "sha256" in record and record["sha256"] != hashlib.sha256(image).hexdigest():
        faults.append("image bytes differ from their sha256")
    return record, faults


def _field_faults(record: dict[str, Any]) -> list[str]:
    faults = [f"JSON has no {name}" for name in FIELDS if name not in record]
    for name, kind in (FIELDS | OPTIONAL_FIELDS).items():
        if name not in record:
            continue
        value = record[name]
        if not isinstance(value, kind) or isinstance(value, bool):
            faults.append(f"JSON field {name} is {quote(repr(value), 40)}, not {kind.__name__}")
        elif isinstance(value, int) and not 1 <= value <= MAX_SIDE:
            faults.append(f"JSON field {name} is {quote(value, 40)}, not 1 to {MAX_SIDE}")
        elif isinstance(value, str) and not is_unicode(value):
            faults.append(f"JSON field {name} has a surrogate without its pair")
    if not faults and record["width"] * record["height"] > MAX_PIXELS:
        faults.append(f"image is {record['width']} x {record['height']}, more than {MAX_PIXELS} pixels")
    return faults


def _caption_faults(captions: list[Any]) -> list[str]:
    if not captions or not _are_texts(captions) or not all(text.strip() for text in captions):
        return ["an empty caption, or none"]
    if not usable_captions(captions):
        return [f"no usable caption: cleaning leaves nothing of {quote(captions[0])}"]
    return []


def _are_texts(captions: object) -> bool:
    return isinstance(captions, list) and all(isinstance(text, str) and is_unicode(text) for text in captions)


def _has_content(cleaned: str) -> bool:
    return any(map(_is_seen, cleaned))


def _is_seen(character: str) -> bool:
    """Whether it is none of UNSEEN, nor the replacement character, which the tokenizer drops too."""
    return unicodedata.category(character) not in UNSEEN and character != "\ufffd"
