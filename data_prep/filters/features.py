"""What the rules need of every sample, read from the tars once: one small parquet a shard, kept.

Decoding the images is nearly all the time a filter takes, so a killed run resumes with the missing shards, and other
settings need no tar again. A file is named after its shard and the tar's SHA-256, so it is never stale.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from base.atomic_file import replacing
from data_prep.errors import FolderError
from data_prep.filters.perceptual_hash import NUM_BYTES, hash_jpeg
from data_prep.filters.sample_rules import caption_hash
from data_prep.output.storage import file_sha256
from data_prep.shards.reader import read_samples
from samples.quote import quote_error
from samples.record import check_meta
from samples.tar import TarDamage

VERSION = 1
"""Of the columns and of the perceptual hash; in the files' names."""
SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("image_sha256", pa.binary(32), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("original_width", pa.int32(), nullable=False),
        pa.field("original_height", pa.int32(), nullable=False),
        pa.field("captions", pa.list_(pa.string()), nullable=False),
        pa.field("caption_hashes", pa.list_(pa.uint64()), nullable=False),
        pa.field("look", pa.binary(NUM_BYTES)),
    ]
)
"""`look` is the perceptual hash, null for a flat image."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to read features from."""

    tar: Path
    sha256: str
    num_samples: int
    keys: tuple[str, ...] | None
    """The samples that the manifest names, where it does not name all."""
    out: Path


def features_path(folder: Path, tar: Path, sha256: str, keys_sha256: str | None) -> Path:
    """The file with a shard's features."""
    selection = f"-{keys_sha256[:12]}" if keys_sha256 else ""
    return folder / f"{tar.stem}-{sha256[:16]}{selection}.v{VERSION}.parquet"


def make_features(task: ShardTask) -> int:
    """Read a shard and store its features, atomically; returns the number of samples. Memory: one shard's features.

    Raises: FolderError when the tar is not the one that was verified, or an image cannot be decoded.
    """
    _check_tar(task)
    wanted = None if task.keys is None else set(task.keys)
    rows = []
    try:
        for sample in read_samples(task.tar):
            if wanted is None or sample.key in wanted:
                rows.append(_features(task.tar, sample.key, sample.image, sample.meta))
    except TarDamage as damage:
        raise _changed(task.tar, f"{damage.member}: {damage.reason}") from damage
    if len(rows) != task.num_samples:
        raise _changed(task.tar, f"{len(rows)} samples instead of {task.num_samples}")
    write_table(pa.Table.from_pylist(rows, schema=SCHEMA), task.out)
    return len(rows)


def is_features_name(name: str) -> bool:
    """Whether a file of that name holds features of a shard or of an evaluation set."""
    return re.fullmatch(r".+\.v[0-9]+\.parquet", name) is not None


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table atomically: a file with its final name is whole."""
    with replacing(path) as beside:
        pq.write_table(table, beside, compression="zstd")


def perceptual_hashes(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(n, 4) uint64 perceptual hashes, and (n,) bool: True for a flat image, whose hash is zeros."""
    column = table["look"].combine_chunks()
    flat = column.is_null().to_numpy(zero_copy_only=False)
    packed = b"".join(bytes(NUM_BYTES) if value is None else value for value in column.to_pylist())
    return np.frombuffer(packed, dtype="<u8").reshape(-1, 4), flat


def _check_tar(task: ShardTask) -> None:
    try:
        found = file_sha256(task.tar)
    except OSError as error:
        raise _changed(task.tar, f"cannot be read: {error.strerror or error}") from error
    if found != task.sha256:
        raise _changed(task.tar, f"its sha256 is {found[:12]}, {task.sha256[:12]} in its manifest")


def _features(tar: Path, key: str, image: bytes, meta: bytes) -> dict[str, object]:
    fields, faults = check_meta(meta, key, image)
    if faults:
        raise _changed(tar, f"{key}: {faults[0]}")
    try:
        look = hash_jpeg(image)
    except MemoryError:
        raise
    except Exception as error:  # a decoder of damaged bytes raises many kinds
        raise _changed(tar, f"{key} cannot be decoded: {quote_error(error)}") from error
    return {
        **{name: fields[name] for name in ("key", "width", "height", "original_width", "original_height", "captions")},
        "image_sha256": bytes.fromhex(fields["sha256"]),
        "caption_hashes": [caption_hash(text) for text in fields["captions"]],
        "look": None if look is None else look.tobytes(),
    }


def _changed(tar: Path, what: str) -> FolderError:
    return FolderError(
        f"{tar}: {what}", "run `python -m data_prep verify` on its folder to see what is whole, then filter again"
    )
