"""Reads the original's annotation files: a JSON list of {"image": path, "caption": text or list of texts}.

Such a list names an image once for each of its captions; `merge_captions` makes one row of them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import sys
import tempfile
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from data_prep.lists.json_stream import stream_json_list
from data_prep.lists.list_columns import ListColumns
from data_prep.lists.published_file import check_is_file
from data_prep.lists.row_list import ListedImage
from data_prep.lists.url_list import read_records

NO_FLAGS = ListColumns(url="path", local=True)
"""Columns of `pack` when no flag names one."""


def read_annotations(path: Path, columns: ListColumns = NO_FLAGS) -> Iterator[ListedImage]:
    """Entries in the file's order, one image each; the image's path stays as written.

    Args:
        columns: names of an entry's fields; the path is in `image` unless `--path-col` names another.
    Raises: InputError for a file that is missing or is not a JSON list; UsageError for a field that no entry has.
    """
    check_is_file(path, "give existing files with --annotations")
    if columns.url == NO_FLAGS.url:
        columns = dataclasses.replace(columns, url="image")
    return read_records(path, ((None, entry) for entry in stream_json_list(path)), columns)


def merge_captions(images: Iterable[ListedImage], folder: Path) -> Iterator[ListedImage]:
    """One row for each image, at the position of its first row, with the distinct captions of all its rows.

    Rows wait in an unnamed file in `folder`; memory is some 70 bytes a row (measured in docs/sources.md): a hash of the
    image's name and an offset into the file. A row that names no image stays as it is.
    """
    names, starts = array("Q"), array("Q")
    with tempfile.TemporaryFile(dir=folder) as spool:
        end = 0
        for number, image in enumerate(images):
            starts.append(end)
            names.append(_hash(image.url or f"\0{number}"))
            end += spool.write(
                json.dumps([image.url, image.captions, image.rejected, image.id, image.licence]).encode() + b"\n"
            )
        order, groups = _by_first_appearance(names)
        num_images = 0
        for _, numbers in itertools.groupby(range(len(order)), key=lambda index: groups[order[index]]):
            for merged in _merge([_read(spool, starts[order[index]]) for index in numbers]):
                num_images += 1
                yield merged
    if num_images < len(names):
        print(f"{len(names)} entries name {num_images} images: one sample an image", file=sys.stderr)


def _by_first_appearance(names: array[int]) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers grouped by name, and for each row the first row with the same name."""
    _, first, group = np.unique(np.frombuffer(names, dtype=np.uint64), return_index=True, return_inverse=True)
    groups = first[group]
    return np.argsort(groups, kind="stable"), groups


def _merge(rows: Sequence[ListedImage]) -> Iterator[ListedImage]:
    """Merge rows of one hash: they are of one image, unless hashes collide."""
    by_name: dict[str, list[ListedImage]] = {}
    for row in rows:
        by_name.setdefault(row.url, []).append(row)
    for url, same in by_name.items():
        captions = list(dict.fromkeys(caption for row in same for caption in row.captions))
        good = next((row for row in same if row.rejected is None), None)
        yield same[0] if good is None else ListedImage(url, captions, None, good.id, good.licence)


def _read(spool: IO[bytes], start: int) -> ListedImage:
    if spool.tell() != start:
        spool.seek(start)
    return ListedImage(*json.loads(spool.readline()))


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")
