"""The pictures that ship with the demo: records from annotations.jsonl, bytes from pictures.zip."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from samples.image import read_image
from samples.record import MAX_PIXELS

ASSETS = Path(__file__).parent / "assets"
SPLITS = ("train", "val", "test_emoji", "test_clipart", "test_scenes")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture and its record."""

    image: str
    """Name in pictures.zip, and path on the demo's server."""
    split: str
    """One of SPLITS."""
    captions: tuple[str, ...]
    """1-5 short captions; the first is the plain name."""
    vendor: str
    """Whose work: a row of ATTRIBUTION.md."""
    kind: str
    """emoji, clipart, or scene-lr, -tb, -row, -size."""
    boxes: tuple[tuple[str, tuple[int, int, int, int]], ...] = ()
    """Scenes: label and [x0, y0, x1, y1] in pixels of each drawing."""


def read_pictures(split: str | None = None) -> list[Picture]:
    """The records of one split, or of all, in the order of the file."""
    with (ASSETS / "annotations.jsonl").open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [_picture(record) for record in records if split in (None, record["split"])]


def _picture(record: dict[str, Any]) -> Picture:
    return Picture(
        image=record["image"],
        split=record["split"],
        captions=tuple(record["captions"]),
        vendor=record["vendor"],
        kind=record["kind"],
        boxes=tuple((box["label"], tuple(box["box"])) for box in record.get("boxes", [])),
    )


class PictureArchive:
    """JPEG bytes by name. Several threads may read at once."""

    def __init__(self, path: Path = ASSETS / "pictures.zip") -> None:
        self._zip = zipfile.ZipFile(path)
        self._names = set(self._zip.namelist())

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def read(self, name: str) -> bytes:
        """The JPEG file; KeyError when there is no such picture."""
        return self._zip.read(name)

    def open(self, name: str) -> Image.Image:
        """The picture, RGB."""
        return read_image(self.read(name), max_pixels=MAX_PIXELS)

    def close(self) -> None:
        """Close the file."""
        self._zip.close()
