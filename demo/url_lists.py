"""The lists that data_prep downloads: the demo's pictures as URLs, and some URLs broken on purpose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from base import atomic_file
from demo.pictures import Picture, read_pictures

BROKEN = ("gone", "gone", "gone", "gone", "page", "page", "cut", "cut", "empty", "noai", "noai", "flaky", "flaky")
"""Rows added to the training list, by what is wrong with them (`demo.server.FAULTS`). They lose no picture: each names
one that is also listed properly, or, for `flaky`, one that arrives at the second try."""

SPLITS = {"train": "train", "val": "val", "test": "test_emoji"}
"""Folder under runs/demo/data, and the split of the annotations it holds."""


def chosen(split: str, limit: int | None = None) -> list[Picture]:
    """The pictures of a data folder; with a limit, that many at even distances, so that each vendor is among them."""
    pictures = read_pictures(SPLITS[split])
    if limit is None or limit >= len(pictures):
        return pictures
    return [pictures[index * len(pictures) // limit] for index in range(limit)]


def write_list(path: Path, pictures: Sequence[Picture], *, port: int, first_caption_only: bool, broken: bool) -> int:
    """Write a JSON Lines list of URLs and captions; returns the number of rows.

    Args:
        port: where the demo's server listens.
        first_caption_only: list the plain name alone, as evaluation wants it.
        broken: spread the rows of BROKEN over the list.
    """
    root = f"http://127.0.0.1:{port}"
    rows = [
        {
            "url": f"{root}/pictures/{picture.image}",
            "caption": list(picture.captions[:1] if first_caption_only else picture.captions),
        }
        for picture in pictures
    ]
    if broken:
        gap = len(rows) // len(BROKEN)
        for index, fault in reversed(list(enumerate(BROKEN))):
            picture = pictures[index * gap]
            rows.insert(
                index * gap + gap // 2,
                {"url": f"{root}/faults/{fault}/{picture.image}", "caption": list(picture.captions)},
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_file.write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)
