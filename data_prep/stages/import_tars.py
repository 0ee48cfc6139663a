"""`data_prep import`: samples of ready-made tars -> our shards, each one kept or a counted failure.

The tars are read through once, headers and texts only, into the list (`rows.parquet`) and a table of where each image
lies (`members.parquet`). Then shards are built from these, in parallel and in any order.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from base.atomic_file import replacing
from data_prep.errors import InputError
from data_prep.lists.row_list import ListedImage
from data_prep.output.job import default_source
from data_prep.output.storage import open_regular
from data_prep.shards.writer import FetchResult
from data_prep.stages.tar_samples import TarSample, read_tar
from data_prep.workers.worker_pool import in_order, open_pool
from samples.quote import quote

MEMBERS = pa.schema([("tar", pa.int64()), ("offset", pa.int64()), ("size", pa.int64())])
END_BYTES = 1 << 16
BETWEEN_BYTES, READS_BETWEEN = 1 << 12, 64


def list_tars(
    tars: Sequence[Path], members: Path, shard_size: int, *, processes: int, keep_going: bool = False
) -> Iterator[ListedImage]:
    """The samples of all tars, one row each; the positions of their images go to `members`, one row group a shard.

    Memory: the texts of one tar; with several tars and processes those of two tars for each process.

    Args:
        keep_going: take the samples before a tar's damage, and count the rest of it as one row with reason
            `broken_tar`.
    Raises: InputError naming a tar that cannot be read, or, without `keep_going`, one that is damaged.
    """
    with replacing(members) as unpublished, pq.ParquetWriter(unpublished, MEMBERS, compression="zstd") as writer:
        samples = _all_samples(tars, processes, keep_going)
        while chunk := list(itertools.islice(samples, shard_size)):
            images = [{"tar": tar, "offset": sample.offset, "size": sample.size} for tar, sample in chunk]
            writer.write_table(pa.Table.from_pylist(images, MEMBERS), row_group_size=shard_size)
            yield from (sample.listed for _, sample in chunk)


def _all_samples(tars: Sequence[Path], processes: int, keep_going: bool) -> Iterator[tuple[int, TarSample]]:
    for number, (samples, damage) in enumerate(_read_all(tars, min(processes, len(tars)))):
        if damage is not None and not keep_going:
            raise InputError(
                f"{tars[number]}: {damage}",
                "fetch it again or leave it out; or --keep-going takes what comes before the damage",
            )
        yield from ((number, sample) for sample in samples)
        if damage is not None:
            yield number, TarSample(ListedImage(tars[number].name, [], f"broken_tar: {damage}"))


def _read_all(tars: Sequence[Path], processes: int) -> Iterator[tuple[list[TarSample], str | None]]:
    if processes == 1:
        yield from map(_read_one, tars)
        return
    with open_pool(processes) as pool:
        yield from in_order(pool, _read_one, tars, ahead=2 * processes)


def _read_one(path: Path) -> tuple[list[TarSample], str | None]:
    try:
        samples, damage = read_tar(path)
    except OSError as error:  # not damage, which --keep-going would count: the tar may be readable another day
        raise _unreadable(path, error) from error
    if damage is None:
        return samples, None
    return samples, f"{damage} (at member {quote(damage.member, 40)})" if damage.member else str(damage)


@dataclass(frozen=True)
class TarRows:
    """Where a shard's images come from (`data_prep.stages.pack.RowImages`)."""

    tars: tuple[Path, ...]
    members: Path
    max_image_bytes: int

    def results(self, index: int, rows: dict[int, ListedImage]) -> Iterator[FetchResult]:
        """The bytes of each row, from its tar; rows of a shard mostly follow each other in one tar."""
        with pq.ParquetFile(self.members) as file:
            members = file.read_row_group(index).to_pylist()
        together = zip(rows.items(), members, strict=True)
        for number, group in itertools.groupby(together, key=lambda one: one[1]["tar"]):
            with _opened(self.tars[number]) as tar:
                for (row, image), member in group:
                    if image.rejected is not None:
                        yield FetchResult(row, None, image.rejected)
                    elif member["size"] > self.max_image_bytes:
                        yield FetchResult(
                            row, None, f"file_too_large: {member['size']} bytes, more than {self.max_image_bytes}"
                        )
                    else:
                        yield FetchResult(row, self._image(number, tar, member["offset"], member["size"]), None)

    def _image(self, number: int, tar: IO[bytes], offset: int, size: int) -> bytes:
        try:
            tar.seek(offset)
            data = tar.read(size)
        except OSError as error:
            raise _unreadable(self.tars[number], error) from error
        if len(data) < size:
            raise InputError(
                f"{self.tars[number]} is shorter than when it was listed: {len(data)} of {size} bytes at {offset}",
                "restore it, or import into another --out",
            )
        return data


def _opened(path: Path) -> IO[bytes]:
    try:
        return open_regular(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read: {error.strerror or error}", "is the disk with the tars still there?")


def hash_tars(tars: Iterable[Path], reading: dict[str, object]) -> str:
    """sha256 over names, sizes, both ends and samples of the bytes between: hundreds of gigabytes need not be read."""
    digest = hashlib.sha256(json.dumps(reading, sort_keys=True).encode())
    for path in tars:
        with _opened(path) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{path.name} {size}\n".encode() + file.read(END_BYTES))
            file.seek(max(0, size - END_BYTES))
            digest.update(file.read(END_BYTES))
            for offset in range(0, size, max(BETWEEN_BYTES, size // READS_BETWEEN)):
                file.seek(offset)
                digest.update(file.read(BETWEEN_BYTES))
    return digest.hexdigest()


def tars_source(first: Path) -> str:
    """`cc3m_train` for cc3m-train-0000.tar."""
    return default_source(Path(re.sub(r"[\W\d_]+$", "", first.stem)))
