"""Reads the original's annotation files: a JSON list of {"image": path, "caption": text or list of texts}."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.errors import InputError
from data_prep.row_list import ListedImage, keep_captions

CHUNK_CHARACTERS = 1 << 20
_BETWEEN = " \t\r\n,"


def read_annotations(path: Path) -> Iterator[ListedImage]:
    """Entries in the file's order, one image each; the image's path stays as written.

    Raises: InputError for a file that is missing or is not a JSON list.
    """
    for entry in stream_json_list(path):
        if not isinstance(entry, dict) or not isinstance(entry.get("image"), str) or not entry["image"]:
            yield ListedImage("", [], f"bad_row: no image in {str(entry)[:100]}")
            continue
        captions = entry.get("caption")
        texts: list[Any] = captions if isinstance(captions, list) else [captions]
        if not all(isinstance(text, str) for text in texts):
            yield ListedImage(entry["image"], [], f"bad_row: caption is {str(captions)[:100]}")
            continue
        yield keep_captions(entry["image"], texts)


def stream_json_list(path: Path) -> Iterator[Any]:
    """Elements of a JSON list one at a time: the 14M lists of the original are gigabytes.

    Raises: InputError naming the place where the file stops being a JSON list.
    """
    if not path.is_file():
        raise InputError(f"annotations not found: {path}", "give existing files with --annotations")
    decoder = json.JSONDecoder()
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        buffer = file.read(CHUNK_CHARACTERS).lstrip()
        if not buffer.startswith("["):
            raise InputError(f"{path} is not a JSON list", 'it should be [{"image": "a.jpg", "caption": "..."}, ...]')
        position, done = 1, 0
        while True:
            while buffer[position : position + 1] in _BETWEEN and position < len(buffer):
                position += 1
            if buffer[position : position + 1] == "]":
                return
            try:
                element, position = decoder.raw_decode(buffer, position)
            except ValueError as error:
                more = file.read(CHUNK_CHARACTERS)
                if not more:
                    raise InputError(
                        f"{path}: broken JSON after {done} entries: {error}", "repair or download the file again"
                    ) from error
                buffer, position = buffer[position:] + more, 0
                continue
            done += 1
            yield element
