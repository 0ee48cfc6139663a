"""Writes one shard: KEY.jpg and KEY.json side by side, sorted by key, byte for byte the same on every run."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

from data_prep.lists.row_list import ListedImage
from data_prep.output.job import Folder, ImageSettings, Job, write_json
from data_prep.output.storage import open_regular, publish, unpublished
from data_prep.shards.image_encoding import EncodedImage, encode_image
from samples.image import ImageRefused
from samples.json_text import is_unicode, parse_json
from samples.quote import quote
from samples.record import MAX_PIXELS, usable_captions
from samples.shard import MAX_IMAGE_BYTES, MAX_RECORD_BYTES

RECORD_VERSION = 1
MAX_SHARD_RECORD_BYTES = 1 << 26
"""Of a shard's record; the arguments of a job hold the names of its lists."""


@dataclass(frozen=True)
class ShardRecord:
    """What one shard accounts for; stored as NAME.json beside NAME.tar, and written after it."""

    name: str
    source: str
    listed: int
    kept: int
    failed: dict[str, int]
    bytes: int
    sha256: str
    tools: dict[str, str]
    arguments: dict[str, Any]
    created: str
    supersedes: dict[str, int] = field(default_factory=dict)
    """Failures of earlier rounds that the rows of a retry replace."""


@dataclass(frozen=True)
class FetchResult:
    """What came back for one row: the bytes, or `failure` as `reason: detail`."""

    row: int
    data: bytes | None
    failure: str | None


def write_shard(
    folder: Folder,
    job: Job,
    index: int,
    listed: dict[int, ListedImage],
    results: Iterable[FetchResult],
    arguments: dict[str, Any],
    encode: Callable[[bytes, ImageSettings], EncodedImage] = encode_image,
) -> ShardRecord:
    """Encode the results, in any order, and publish the shard.

    The failures file and the tar get their final names before the record does, so a record means a whole shard.
    Memory: one image; encoded images wait in an unnamed temporary file until they are written in order.
    """
    name = job.shard_name(index)
    stored: dict[int, tuple[int, int, bytes]] = {}
    failures: dict[int, tuple[str, str]] = {}
    with tempfile.TemporaryFile(dir=folder.work) as spool:
        for result in results:
            image = listed[result.row]
            try:
                encoded = encode(_bytes(result, image), job.images)
                meta = _meta(job, result.row, image, encoded)
            except ImageRefused as refused:
                failures[result.row] = (refused.reason, refused.detail)
                continue
            stored[result.row] = (spool.tell(), len(encoded.jpeg), meta)
            spool.write(encoded.jpeg)
        if len(stored) + len(failures) != len(listed):
            raise ValueError(f"{name}: {len(stored)} + {len(failures)} results for {len(listed)} rows")
        _write_failures(folder, name, listed, failures)
        in_order = ((job.key(row), *stored[row]) for row in sorted(stored))
        size, sha256 = _write_tar(folder, folder.shards / f"{name}.tar", spool, in_order)
    record = ShardRecord(
        name=name,
        source=job.source,
        listed=len(listed),
        kept=len(stored),
        failed=dict(sorted(Counter(reason for reason, _ in failures.values()).items())),
        bytes=size,
        sha256=sha256,
        tools=tool_versions(),
        arguments=arguments,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        supersedes=dict(sorted(Counter(filter(None, (image.supersedes for image in listed.values()))).items())),
    )
    write_json(record_path(folder, name), {"version": RECORD_VERSION, **asdict(record)})
    return record


def record_path(folder: Folder, name: str) -> Path:
    return folder.shards / f"{name}.json"


def read_record(path: Path) -> ShardRecord:
    """Raises: ValueError when the file is not a record this code wrote, OSError when it cannot be read."""
    with open_regular(path) as file:
        data = file.read(MAX_SHARD_RECORD_BYTES)
    try:
        fields = parse_json(data)
        if fields.pop("version") != RECORD_VERSION:
            raise ValueError("another version")
        record = ShardRecord(**fields)
        _check_types(record)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is not a shard record: {quote(error)}") from error
    return record


def _check_types(record: ShardRecord) -> None:
    """Raises: ValueError naming the field."""
    counts = (*record.failed.values(), *record.supersedes.values(), record.listed, record.kept, record.bytes)
    if any(type(count) is not int or not 0 <= count < 2**63 for count in counts):
        raise ValueError("a count that is none")
    texts = (record.name, record.source, record.sha256, record.created)
    if not all(isinstance(text, str) and is_unicode(text) for text in texts):
        raise ValueError("a text that is none")
    if not isinstance(record.tools, dict) or not isinstance(record.arguments, dict):
        raise ValueError("tools or arguments that are no object")


def tool_versions() -> dict[str, str]:
    """Versions of the packages that shape the pixels and the files; one that is not installed is left out."""
    versions = {"python": platform.python_version()}
    for package in ("img2dataset", "pillow", "opencv-python-headless", "pyarrow", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _bytes(result: FetchResult, image: ListedImage) -> bytes:
    failure = image.rejected or result.failure
    if failure is not None:
        reason, _, detail = failure.partition(": ")
        raise ImageRefused(reason, detail)
    if result.data is None:
        raise ImageRefused("empty_body", "no bytes were stored")
    if not usable_captions(image.captions):  # in a list that was read before lists were checked for this
        raise ImageRefused("empty_caption", f"cleaning leaves nothing of {quote(image.captions)}")
    return result.data


def _meta(job: Job, row: int, image: ListedImage, encoded: EncodedImage) -> bytes:
    """The sample's JSON. Raises: ImageRefused when `verify` would refuse the sample for its size."""
    if encoded.width * encoded.height > MAX_PIXELS:
        raise ImageRefused("too_many_pixels", f"{encoded.width} x {encoded.height} to store, more than {MAX_PIXELS}")
    if len(encoded.jpeg) > MAX_IMAGE_BYTES:
        raise ImageRefused("sample_too_large", f"a JPEG of {len(encoded.jpeg)} bytes, more than {MAX_IMAGE_BYTES}")
    notes = {name: note for name, note in (("id", image.id), ("licence", image.licence)) if note is not None}
    fields = {
        "key": job.key(row),
        **notes,
        "captions": image.captions,
        "url": image.url,
        "source": job.source,
        "original_width": encoded.original_width,
        "original_height": encoded.original_height,
        "width": encoded.width,
        "height": encoded.height,
        "sha256": hashlib.sha256(encoded.jpeg).hexdigest(),
    }
    meta = json.dumps(fields, ensure_ascii=False, sort_keys=True).encode()
    if len(meta) > MAX_RECORD_BYTES:
        raise ImageRefused("sample_too_large", f"{len(meta)} bytes of captions and notes, more than {MAX_RECORD_BYTES}")
    return meta


def _write_failures(
    folder: Folder, name: str, listed: dict[int, ListedImage], failures: dict[int, tuple[str, str]]
) -> None:
    path = folder.failures / f"{name}.jsonl"
    written = unpublished(path, folder.work)
    with open(written, "w", encoding="utf-8") as file:
        for row, (reason, detail) in sorted(failures.items()):
            line = {"row": row, "url": listed[row].url, "reason": reason, "detail": detail}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
    publish(written, path)


def _write_tar(
    folder: Folder, path: Path, spool: IO[bytes], samples: Iterable[tuple[str, int, int, bytes]]
) -> tuple[int, str]:
    """Write the tar under a temporary name, then publish it; returns its size and sha256.

    Args:
        samples: for each its key, the offset and size of its image in `spool`, and its JSON, in the shard's order.
    """
    temporary = unpublished(path, folder.work)
    with open(temporary, "wb") as file:
        hashing = _HashingFile(file)
        with tarfile.open(fileobj=hashing, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
            for key, start, size, meta in samples:
                spool.seek(start)
                _add(tar, f"{key}.jpg", spool.read(size))
                _add(tar, f"{key}.json", meta)
        file.flush()
        os.fsync(file.fileno())
        written = file.tell()
    publish(temporary, path)
    return written, hashing.digest.hexdigest()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # mtime, uid and gid stay 0: nothing in the tar depends on when or who
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(data))


class _HashingFile:
    """The two methods that `tarfile` needs to write; they hash what is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()
