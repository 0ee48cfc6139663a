"""What a set of samples is recognised by in another run or evaluation: its file's content, and its images' names."""

# n images

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from albef.errors import DataError
from samples.quote import quote

LONG_NAME = 8
"""Characters from which on an image's name alone identifies it, as COCO's and Flickr's do. Shorter ones, such as
`000123`, count with the folder they are in."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Split:
    """A file of entries, or a source of shards."""

    name: str
    """Of the file or folder, without the folders above it."""
    sha256: str
    """Of the file's bytes, or of what its manifest has of each shard."""
    num_entries: int
    images: np.ndarray | None
    """(n,) uint64, sorted and distinct: `name_hashes` of its images. None where names would cost reading samples."""


def split_of_file(path: str | Path, images: Sequence[Sequence[str]]) -> Split:
    """An annotation file whose entries have images of these names. Raises: DataError when it cannot be read."""
    try:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"annotation file {quote(path)}: {error.strerror}", "was it moved meanwhile?") from error
    return Split(
        name=Path(path).name,
        sha256=digest,
        num_entries=len(images),
        images=np.unique(name_hashes({name for names in images for name in names})),
    )


def name_hashes(images: Iterable[str]) -> np.ndarray:
    """(n,) uint64, in the order given: 64 bits of BLAKE2b of each image's identity, without folders and suffix."""
    digests = [hashlib.blake2b(_identity(image).encode(), digest_size=8).digest() for image in images]
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _identity(image: str) -> str:
    """`val2014/COCO_val2014_000000262148.jpg` in any folder, `4705552913` with or without .jpg; `train/000123`."""
    path = PurePath(image)
    stem = path.name.removesuffix(path.suffix).lower()
    return stem if len(stem) >= LONG_NAME or not path.parent.name else f"{path.parent.name.lower()}/{stem}"
