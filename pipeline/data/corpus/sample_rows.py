"""Where each sample of a shard lies: the long columns of a manifest, read one row group at a time when first needed.

`data_prep` writes one row group per shard, so that a start at any step of 14 million samples reads only the shards of
its window, not 14 million keys. Rows stay in memory once read: 34 bytes and a key for each sample seen so far.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.errors import DataError
from pipeline.data.corpus.manifest_columns import list_values
from samples.quote import quote

COLUMNS = ("keys", "offsets", "lengths")


@dataclass(frozen=True, slots=True, eq=False)
class ShardRows:
    """The samples of one shard, in the tar's order."""

    keys: pa.Array
    """(n,) strings."""
    offsets: np.ndarray
    """(n,) int64 byte offset of each sample in its tar."""
    lengths: np.ndarray
    """(n,) int64 bytes of each sample."""


class SampleRows:
    """The samples of one manifest file.

    Args:
        path: the file's path, for messages.
        file: the open file.
        shards: its short columns `path`, `num_samples` and `bytes`, one row per shard.
    """

    def __init__(self, path: str, file: pq.ParquetFile, shards: pa.Table) -> None:
        self.path = path
        self._file = file
        self._names = shards["path"].to_pylist()
        self._sizes = shards["num_samples"].to_numpy()
        self._bytes = shards["bytes"].to_numpy()
        groups = range(file.metadata.num_row_groups)
        self._group_starts = np.cumsum([0, *(file.metadata.row_group(group).num_rows for group in groups)])
        self._rows: dict[int, ShardRows] = {}

    def __len__(self) -> int:
        """Number of shards."""
        return len(self._names)

    def shard(self, number: int) -> ShardRows:
        """The samples of a shard of this file, counted from 0.

        Raises: DataError when its rows contradict the shard's size, its bytes or each other.
        """
        if number not in self._rows:
            self._read(int(np.searchsorted(self._group_starts, number, side="right")) - 1)
        return self._rows[number]

    def check_keys(self) -> None:
        """Check that no key is used twice in the whole file; reads all of it.

        Raises: DataError naming a repeated key; and as `shard`.
        """
        keys = pa.concat_arrays([self.shard(number).keys.cast(pa.large_string()) for number in range(len(self))])
        self._refuse_twice(keys)

    def _read(self, group: int) -> None:
        try:
            table = self._file.read_row_group(group, columns=list(COLUMNS), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            why = quote(" ".join(str(error).split()), 150)
            raise DataError(f"{self.path} cannot be read: {why}", "write it again with `data_prep verify`") from error
        first, end = int(self._group_starts[group]), int(self._group_starts[group + 1])
        sizes = self._sizes[first:end]
        values = {name: list_values(self.path, name, table[name], first, sizes) for name in COLUMNS}
        keys, offsets, lengths = values["keys"], values["offsets"].to_numpy(), values["lengths"].to_numpy()
        starts = np.cumsum([0, *sizes])
        for number, (start, size) in enumerate(zip(starts, sizes, strict=False), first):
            part = slice(start, start + size)
            self._rows[number] = self._checked(number, ShardRows(keys.slice(start, size), offsets[part], lengths[part]))

    def _checked(self, number: int, rows: ShardRows) -> ShardRows:
        room = self._bytes[number] - rows.lengths  # offset + length could be beyond 64 bits
        outside = (rows.offsets < 0) | (rows.lengths <= 0) | (rows.offsets > room)
        if outside.any():
            raise DataError(
                f"{self.path}: {outside.sum()} samples lie outside their shard {quote(self._names[number])}",
                "write it again with `data_prep verify`",
            )
        self._refuse_twice(rows.keys)
        return rows

    def _refuse_twice(self, keys: pa.Array) -> None:
        if len(keys) < 2:  # a shard of which the filter kept nothing
            return
        # Keys that ascend, as `data_prep` numbers them, need no table of 14M strings to show that they are distinct.
        if pc.all(pc.less(keys.slice(0, len(keys) - 1), keys.slice(1))).as_py() is not False:
            return
        count = len(keys) - len(pc.unique(keys))
        if not count:
            return
        counts = pc.value_counts(keys)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        raise DataError(
            f"{self.path}: {count} keys are used twice, '{quote(twice[0].as_py())}' first",
            "keys name samples and seed their augmentation: pack the shards again with distinct keys",
        )
