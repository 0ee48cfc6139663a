"""The boxes that a detector proposes for each image: `dets.json` of ALBEF's authors, or MAttNet's detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from albef.errors import DataError
from pipeline.tasks.grounding.annotations import box_of
from samples.json_text import parse_json
from samples.plain_file import read_plain
from samples.quote import quote

MAX_FILE_BYTES = 4 << 30
LAYOUT = '{"IMAGE_ID": [[x, y, width, height, ...], ...], ...} or a list of {"image_id": number, "box": [x, y, ...]}'


def read_proposals(file: Path) -> dict[str, list[list[float]]]:
    """The boxes of each image, by its `image_id` as text, in the file's order; scores and classes are not read.

    Raises: DataError for a file that is none of the two.
    """
    try:
        values = parse_json(read_plain(file, MAX_FILE_BYTES))
    except OSError as error:
        raise DataError(f"proposals {quote(file)}: {error.strerror}", "check its path (--dets)") from error
    except ValueError as error:
        raise DataError(f"proposals {quote(file)} are not JSON: {quote(error)}", LAYOUT) from error
    try:
        return _by_image(values)
    except ValueError as error:
        raise DataError(f"proposals {quote(file)}: {error}", f"{LAYOUT} is expected") from error


def _by_image(values: Any) -> dict[str, list[list[float]]]:
    found: dict[str, list[list[float]]] = {}
    if isinstance(values, dict):
        for image, boxes in values.items():
            if not isinstance(boxes, list):
                raise ValueError(f"image {quote(image)} has a {type(boxes).__name__}, not a list of boxes")
            found[image] = [_box(box, image) for box in boxes]
        return found
    if not isinstance(values, list):
        raise ValueError(f"the file holds a {type(values).__name__}")
    for number, one in enumerate(values):
        if not isinstance(one, dict) or not isinstance(one.get("image_id"), str | int):
            raise ValueError(f"detection {number} has no image_id")
        image = str(one["image_id"])
        found.setdefault(image, []).append(_box(one.get("box"), image))
    return found


def _box(value: Any, image: str) -> list[float]:
    try:
        return box_of(value, "a box")
    except ValueError as error:
        raise ValueError(f"image {quote(image)} {error}") from None
