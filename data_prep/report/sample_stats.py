"""Statistics of the samples in some shards, from their JSON, and a few random pictures of the whole corpus."""

from __future__ import annotations

import base64
import contextlib
import io
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from data_prep.errors import InputError
from data_prep.output.storage import open_parquet, open_regular
from data_prep.report.counters import CommonCounter, Histogram
from samples.image import upright_rgb
from samples.record import read_meta
from samples.tar import BLOCK, TarDamage, check_inside, padded, parse_header

THUMBNAIL_PX = 176
NUM_WORDS = 50_000
WORD = re.compile(r"[^\W\d_]{4,}")


@dataclass
class SampleStats:
    """Statistics of the samples in the shards that were read."""

    shards: int = 0
    samples: int = 0
    shortest: Histogram = field(
        default_factory=lambda: Histogram([0, 64, 128, 192, 256, 288, 384, 512, 768, 1024, 2048, 4096])
    )
    """Shortest side of the originals, pixels."""
    stored: Histogram = field(default_factory=lambda: Histogram([0, 64, 128, 160, 192, 224, 256, 288, 320, 384, 512]))
    """Shortest side as stored, pixels."""
    aspect: Histogram = field(
        default_factory=lambda: Histogram([0.2, 0.33, 0.5, 0.67, 0.8, 0.95, 1.05, 1.25, 1.5, 2, 3, 5])
    )
    """Width by height."""
    kib: Histogram = field(default_factory=lambda: Histogram([0, 5, 10, 20, 30, 40, 60, 80, 120, 200, 400]))
    """Of a sample in its tar."""
    caption_words: Histogram = field(default_factory=lambda: Histogram([1, 3, 5, 7, 9, 12, 15, 20, 30, 50, 100]))
    captions: Histogram = field(default_factory=lambda: Histogram([1, 2, 3, 4, 5, 6, 8, 11]))
    """Of an image."""
    words: CommonCounter = field(default_factory=lambda: CommonCounter(NUM_WORDS))
    kept_by_host: CommonCounter = field(default_factory=lambda: CommonCounter(NUM_WORDS))
    names: set[str] = field(default_factory=set)
    """Paths of the shards that were read."""

    def add(self, meta: dict[str, Any], length: int) -> None:
        self.samples += 1
        self.shortest.add(min(meta["original_width"], meta["original_height"]))
        self.stored.add(min(meta["width"], meta["height"]))
        self.aspect.add(meta["original_width"] / meta["original_height"])
        self.kib.add(length / 1024)
        self.captions.add(len(meta["captions"]))
        for caption in meta["captions"]:
            self.caption_words.add(len(caption.split()))
            self.words.add(WORD.findall(caption.lower()))
        self.kept_by_host.add([host_of(meta["url"])])


@dataclass(frozen=True)
class Picture:
    """One sample of the contact sheet."""

    key: str
    captions: list[str]
    url: str
    size: str
    data_url: str
    """A small JPEG; empty when the stored image cannot be decoded."""


def sample_stats(manifest: Path, sources: Sequence[str], max_shards: int, seed: int) -> SampleStats:
    """Read the JSON of every sample in up to `max_shards` random shards of each source, at the manifest's offsets.

    Args:
        sources: the source of each shard, in manifest order.
    """
    stats = SampleStats()
    chooser = random.Random(seed)
    chosen: list[int] = []
    for source in sorted(set(sources)):
        shards = [index for index, name in enumerate(sources) if name == source]
        chosen += chooser.sample(shards, min(max_shards, len(shards)))
    for row in _rows(manifest, sorted(chosen)):
        stats.shards += 1
        stats.names.add(row["path"])
        with open_shard(manifest, row["path"]) as file:
            for offset, length in zip(row["offsets"], row["lengths"], strict=True):
                stats.add(_meta(file, offset, length), length)
    return stats


def contact_sheet(manifest: Path, sizes: Sequence[int], number: int, seed: int) -> list[Picture]:
    """`number` pictures, each sample of the corpus as likely as any other, in manifest order.

    Args:
        sizes: samples of each shard, in manifest order.
    """
    ends = np.cumsum([0, *sizes])
    total = int(ends[-1])
    wanted = sorted(random.Random(seed).sample(range(total), min(number, total)))
    by_shard: dict[int, list[int]] = {}
    for sample in wanted:
        shard = int(np.searchsorted(ends, sample, side="right")) - 1
        by_shard.setdefault(shard, []).append(sample - int(ends[shard]))
    pictures = []
    for row, positions in zip(_rows(manifest, list(by_shard)), by_shard.values(), strict=True):
        with open_shard(manifest, row["path"]) as file:
            for position in positions:
                pictures.append(
                    _picture(row["keys"][position], file, row["offsets"][position], row["lengths"][position])
                )
    return pictures


@contextlib.contextmanager
def open_shard(manifest: Path, path: str) -> Iterator[IO[bytes]]:
    """A tar that the manifest names. Raises: InputError when it cannot be opened, or what is read of it is damaged."""
    try:
        with open_regular(manifest.parent / path) as file:
            yield file
    except (OSError, TarDamage) as error:
        reason = str(error) if isinstance(error, TarDamage) else f"cannot be read: {error.strerror or error}"
        raise InputError(
            f"{manifest.parent / path}: {reason}", "run `python -m data_prep verify` on its folder to see what is whole"
        ) from error


def host_of(url: str) -> str:
    """`example.com` of a URL; empty for a path or anything else that is no URL."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _rows(manifest: Path, shards: list[int]) -> Iterator[dict[str, Any]]:
    with open_parquet(manifest) as file:
        for shard in shards:  # one row group a shard (docs/shards.md)
            yield file.read_row_group(shard, columns=["path", "keys", "offsets", "lengths"]).to_pylist()[0]


def _meta(file: IO[bytes], offset: int, length: int) -> dict[str, Any]:
    """The sample's JSON; its image is skipped. Raises: TarDamage when there is no sample."""
    file.seek(offset)
    image, end = parse_header(file.read(BLOCK), offset), offset + length
    check_inside(image.name, offset + BLOCK, image.size, end)
    start = offset + BLOCK + padded(image.size)
    file.seek(start)
    data = file.read(max(0, end - start))
    record, faults = read_meta(data[BLOCK : BLOCK + parse_header(data[:BLOCK], start).size])
    if faults:
        raise TarDamage(f"at byte {start}: {faults[0]}")
    return record


def _picture(key: str, file: IO[bytes], offset: int, length: int) -> Picture:
    meta = _meta(file, offset, length)
    file.seek(offset)
    jpeg = file.read(parse_header(file.read(BLOCK), offset).size)
    size = f"{meta['original_width']} x {meta['original_height']}"
    return Picture(key, meta["captions"], meta["url"], size, _thumbnail(jpeg))


def _thumbnail(jpeg: bytes) -> str:
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            image.draft("RGB", (THUMBNAIL_PX, THUMBNAIL_PX))
            small = upright_rgb(image)
    except (OSError, SyntaxError, ValueError):  # `verify` reports it; here the frame stays empty
        return ""
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
