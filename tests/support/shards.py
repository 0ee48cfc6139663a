"""Writes shards and a manifest by the shard contract (`docs/shards.md`) with nothing but tarfile and pyarrow.

Independent of `data_prep`, so that a test of the reader does not depend on the writer;
`tests/data_prep/test_contract_with_pipeline.py` tests the two together.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


@dataclass(frozen=True)
class Pair:
    """One sample to write. `jpg` and `record` may be anything at all, so that damage can be written too."""

    key: str
    jpg: bytes
    captions: Sequence[str]
    record: bytes | None = None


def picture(number: int, width: int = 80, height: int = 72) -> Image.Image:
    """A distinct smooth picture for every number: cheap to write, unlike its neighbours."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, quality: int = 90) -> bytes:
    """The image as JPEG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def pair(number: int, *, captions: Sequence[str] | None = None, width: int = 80, height: int = 72) -> Pair:
    """Sample `number` with its own picture and, unless given, two captions that name the number."""
    words = captions if captions is not None else [f"a picture of thing {number}", f"thing {number} seen again"]
    return Pair(f"{number:09d}", jpeg(picture(number, width, height)), words)


def write_corpus(folder: Path, shard_sizes: Iterable[int], *, source: str = "made", width: int = 80) -> Path:
    """Shards of the given sizes with consecutive numbers, and their manifest; returns the manifest's path."""
    shards, number = [], 0
    for size in shard_sizes:
        shards.append([pair(number + i, width=width) for i in range(size)])
        number += size
    return write_manifest(folder, shards, source=source)


def write_manifest(folder: Path, shards: Sequence[Sequence[Pair]], *, source: str = "made") -> Path:
    """Write the shards as `shard_00000.tar`, ... and `manifest.parquet` beside them; returns the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [_write_shard(folder / f"shard_{number:05d}.tar", pairs) for number, pairs in enumerate(shards)]
    for row in rows:
        row |= {"source": source, "listed": row["num_samples"], "yield": 1.0, "failures": []}
        row |= {"tools": "{}", "arguments": "{}", "created": "2026-01-01T00:00:00Z"}
    path = folder / "manifest.parquet"
    write_rows(path, rows)
    return path


def write_rows(path: Path, rows: list[dict], *, version: str = "1") -> None:
    """A manifest of exactly these rows: tests damage rows before writing them."""
    failures = pa.list_(pa.struct([("reason", pa.string()), ("count", pa.int64())]))
    types = {
        "path": pa.string(),
        "source": pa.string(),
        "num_samples": pa.int64(),
        "bytes": pa.int64(),
        "sha256": pa.string(),
        "keys": pa.list_(pa.string()),
        "offsets": pa.list_(pa.int64()),
        "lengths": pa.list_(pa.int64()),
        "listed": pa.int64(),
        "yield": pa.float64(),
        "failures": failures,
        "tools": pa.string(),
        "arguments": pa.string(),
        "created": pa.string(),
    }
    present = {name: kind for name, kind in types.items() if not rows or name in rows[0]}
    schema = pa.schema(list(present.items()), metadata={b"albef_manifest_version": version.encode()})
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)


def _write_shard(path: Path, pairs: Sequence[Pair]) -> dict:
    offsets, lengths = [], []
    with tarfile.open(path, "w") as tar:
        for one in pairs:
            start = tar.offset
            record = one.record if one.record is not None else _record(one)
            for name, data in ((f"{one.key}.jpg", one.jpg), (f"{one.key}.json", record)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            offsets.append(start)
            lengths.append(tar.offset - start)
    data = path.read_bytes()
    return {
        "path": path.name,
        "num_samples": len(pairs),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "keys": [one.key for one in pairs],
        "offsets": offsets,
        "lengths": lengths,
    }


def _record(one: Pair) -> bytes:
    record: dict[str, object] = {
        "key": one.key,
        "captions": list(one.captions),
        "url": f"http://example.invalid/{one.key}.jpg",
    }
    record |= {"source": "made", "original_width": 80, "original_height": 72, "width": 80, "height": 72}
    return json.dumps(record | {"sha256": hashlib.sha256(one.jpg).hexdigest()}).encode()
