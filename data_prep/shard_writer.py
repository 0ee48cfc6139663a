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

from data_prep.image_encoding import EncodedImage, ImageRefused, ImageSettings, encode_image
from data_prep.job import Folder, Job, write_json
from data_prep.places import publish, unpublished
from data_prep.row_list import ListedImage

RECORD_VERSION = 1


@dataclass(frozen=True)
class ShardRecord:
    """What one shard accounts for; stored as NAME.json beside NAME.tar, after it."""

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
    """Failures of earlier rounds that the rows of a retry take the place of."""


@dataclass(frozen=True)
class Answer:
    """What came back for one row: the bytes, or `failure` as `reason: detail`."""

    row: int
    data: bytes | None
    failure: str | None


def write_shard(
    folder: Folder,
    job: Job,
    index: int,
    listed: dict[int, ListedImage],
    answers: Iterable[Answer],
    arguments: dict[str, Any],
    encode: Callable[[bytes, ImageSettings], EncodedImage] = encode_image,
) -> ShardRecord:
    """Encode the answers, in whatever order they come, and publish the shard in place.

    The failures file and the tar are renamed into place before the record, so a record proves a whole shard.
    Memory: one image; encoded images wait in an unnamed temporary file for their turn.
    """
    name = job.shard_name(index)
    metas: dict[int, tuple[int, int, dict[str, Any]]] = {}
    failures: dict[int, tuple[str, str]] = {}
    with tempfile.TemporaryFile(dir=folder.work) as spool:
        for answer in answers:
            image = listed[answer.row]
            try:
                encoded = encode(_bytes(answer, image), job.images)
            except ImageRefused as refused:
                failures[answer.row] = (refused.reason, refused.detail)
                continue
            metas[answer.row] = (spool.tell(), len(encoded.jpeg), _meta(job, answer.row, image, encoded))
            spool.write(encoded.jpeg)
        if len(metas) + len(failures) != len(listed):
            raise ValueError(f"{name}: {len(metas)} + {len(failures)} answers for {len(listed)} rows")
        _write_failures(folder, name, listed, failures)
        size, sha256 = _write_tar(folder, folder.shards / f"{name}.tar", spool, metas)
    record = ShardRecord(
        name=name,
        source=job.source,
        listed=len(listed),
        kept=len(metas),
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
    """Raises: ValueError when the file is not a record this code wrote."""
    try:
        fields = json.loads(path.read_bytes())
        if fields.pop("version") != RECORD_VERSION:
            raise ValueError("another version")
        return ShardRecord(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name} is not a shard record: {error}") from error


def tool_versions() -> dict[str, str]:
    """Versions of what shapes the pixels and the files; a package that is not installed is left out."""
    versions = {"python": platform.python_version()}
    for package in ("img2dataset", "pillow", "opencv-python-headless", "pyarrow", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


def _bytes(answer: Answer, image: ListedImage) -> bytes:
    failure = image.rejected or answer.failure
    if failure is not None:
        reason, _, detail = failure.partition(": ")
        raise ImageRefused(reason, detail)
    if answer.data is None:
        raise ImageRefused("empty_body", "no bytes were stored")
    return answer.data


def _meta(job: Job, row: int, image: ListedImage, encoded: EncodedImage) -> dict[str, Any]:
    notes = {name: note for name, note in (("id", image.id), ("licence", image.licence)) if note is not None}
    return {
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
    folder: Folder, path: Path, spool: IO[bytes], metas: dict[int, tuple[int, int, dict[str, Any]]]
) -> tuple[int, str]:
    """Write the tar under a temporary name, then publish it; returns its size and sha256."""
    temporary = unpublished(path, folder.work)
    with open(temporary, "wb") as file:
        hashing = _HashingFile(file)
        with tarfile.open(fileobj=hashing, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
            for _, (start, size, meta) in sorted(metas.items()):
                spool.seek(start)
                _add(tar, f"{meta['key']}.jpg", spool.read(size))
                _add(tar, f"{meta['key']}.json", json.dumps(meta, ensure_ascii=False, sort_keys=True).encode())
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
    """The two methods `tarfile` needs to write, hashing on the way."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.tell()
