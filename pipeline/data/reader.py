"""One sample out of a tar shard, by byte range; every way in which that can fail has a name."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from albef.preprocess import to_rgb

MAX_OPEN_SHARDS = 32
"""File handles a reader keeps. A shuffle window touches a few shards at a time, so this is rarely reached."""

MAX_PIXELS = 178_956_970
"""An image larger than this by its header is taken for an attack on memory; Pillow's own default."""


class BadSample(Exception):
    """A sample that cannot be used; `reason` is the name under which it is counted, `detail` is for the log."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class SampleRef:
    """Where one sample lies, and what it is called. Small: workers get these instead of the manifest."""

    path: str
    """The tar."""
    offset: int
    """Byte offset of the sample's first tar header."""
    length: int
    """Bytes from there to the end of its last padded member."""
    key: str
    """The sample's key in its shard."""
    name: str
    """The name by which the sample is recorded and its random draws are seeded: the key, or `source/key` when several
    manifests are read together (keys are unique only within one)."""


@dataclass(frozen=True, slots=True)
class Locations(Sequence[SampleRef]):
    """The SampleRefs of many samples, as columns: cheap to make and to send to a worker."""

    paths: list[str]
    """The shards that occur."""
    prefixes: list[str]
    """For each of those, what goes before a key in a name."""
    shards: np.ndarray
    """(n,) which of `paths` each sample lies in."""
    offsets: np.ndarray
    """(n,) int64 bytes."""
    lengths: np.ndarray
    """(n,) int64 bytes."""
    keys: list[str]
    """(n,)"""

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> SampleRef:  # type: ignore[override]  # slices are not needed
        shard, key = self.shards[index], self.keys[index]
        return SampleRef(
            path=self.paths[shard],
            offset=int(self.offsets[index]),
            length=int(self.lengths[index]),
            key=key,
            name=self.prefixes[shard] + key,
        )


@dataclass(frozen=True, slots=True)
class RawSample:
    """A sample as it lies in the shard: still encoded."""

    name: str
    jpg: bytes
    captions: list[str]


class ShardReader:
    """Reads samples by byte range, keeping a few files open. Not shared between threads; pickles without its handles.

    Args:
        max_open: files kept open; the least recently used one is closed first.
    """

    def __init__(self, max_open: int = MAX_OPEN_SHARDS) -> None:
        self._max_open = max_open
        self._files: OrderedDict[str, int] = OrderedDict()

    def read(self, ref: SampleRef) -> RawSample:
        """The sample at `ref`.

        Raises: BadSample with one of the reasons `shard_unreadable`, `shard_truncated`, `tar_damaged`,
        `key_mismatch`, `member_missing`, `json_damaged`, `caption_missing`.
        """
        members = _members(self._bytes(ref), ref)
        try:
            jpg, record_bytes = members[f"{ref.key}.jpg"], members[f"{ref.key}.json"]
        except KeyError as error:
            found = ", ".join(sorted(members)) or "nothing"
            reason = "member_missing" if any(_key(name) == ref.key for name in members) else "key_mismatch"
            raise BadSample(reason, f"{ref.path} at {ref.offset}: wanted {error}, found {found}") from error
        return RawSample(name=ref.name, jpg=jpg, captions=_captions(record_bytes, ref))

    def close(self) -> None:
        """Close every file."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"_max_open": self._max_open, "_files": OrderedDict()}

    def __del__(self) -> None:
        self.close()

    def _bytes(self, ref: SampleRef) -> bytes:
        try:
            data = os.pread(self._file(ref.path), ref.length, ref.offset)
        except OSError as error:
            # A handle can go stale (remounted or replaced file): drop it, so that the next read opens afresh.
            self._forget(ref.path)
            raise BadSample("shard_unreadable", f"{ref.path}: {error.strerror or error}") from error
        if len(data) != ref.length:
            detail = f"{ref.path} at {ref.offset}: {len(data)} of {ref.length} bytes"
            raise BadSample("shard_truncated", detail)
        return data

    def _file(self, path: str) -> int:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        if len(self._files) >= self._max_open:
            os.close(self._files.popitem(last=False)[1])
        self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self._files[path]

    def _forget(self, path: str) -> None:
        if path in self._files:
            os.close(self._files.pop(path))


def open_image(jpg: bytes, name: str) -> Image.Image:
    """The image, opened, its size known, its pixels not yet decoded (`load_pixels` does that).

    Raises: BadSample `image_undecodable`, or `image_too_large` above MAX_PIXELS, before a pixel is decoded.
    """
    try:
        image = Image.open(io.BytesIO(jpg))
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise BadSample("image_undecodable", f"{name}: {error}") from error
    except Image.DecompressionBombError as error:
        raise BadSample("image_too_large", f"{name}: {error}") from error
    if image.width * image.height > MAX_PIXELS:  # Pillow's own limit is a global that anyone may have lifted
        raise BadSample("image_too_large", f"{name}: {image.width} x {image.height} pixels, at most {MAX_PIXELS:,}")
    return image


def load_pixels(image: Image.Image, name: str) -> Image.Image:
    """The image as 8-bit RGB, decoded. Raises: BadSample `image_undecodable` (a cut or damaged file)."""
    try:
        image.load()
        return to_rgb(image)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise for cut and damaged files
        raise BadSample("image_undecodable", f"{name}: {error}") from error


def _members(data: bytes, ref: SampleRef) -> dict[str, bytes]:
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
            return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        raise BadSample("tar_damaged", f"{ref.path} at {ref.offset}: {error}") from error


def _key(name: str) -> str:
    return name.rsplit(".", 1)[0]


def _captions(record_bytes: bytes, ref: SampleRef) -> list[str]:
    try:
        record = json.loads(record_bytes)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BadSample("json_damaged", f"{ref.path}, {ref.key}.json: {error}") from error
    captions = record.get("captions") if isinstance(record, dict) else None
    if not isinstance(captions, list) or not captions or not all(isinstance(text, str) for text in captions):
        raise BadSample("caption_missing", f"{ref.path}, {ref.key}.json: no list of captions in it")
    return captions
