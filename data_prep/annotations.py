"""Reads the original's annotation files: a JSON list of {"image": path, "caption": text or list of texts}."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_prep.errors import InputError
from data_prep.json_stream import stream_json_list
from data_prep.row_list import ListedImage, keep_captions


def read_annotations(path: Path) -> Iterator[ListedImage]:
    """Entries in the file's order, one image each; the image's path stays as written.

    Raises: InputError for a file that is missing or is not a JSON list.
    """
    if not path.is_file():
        raise InputError(f"annotations not found: {path}", "give existing files with --annotations")
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
