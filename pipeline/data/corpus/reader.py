"""Read one sample of a tar shard by byte range; every way in which that can fail has a name.

A shard on a mounted disk is read with `pread`; one at a URL by a range request (`stores`); one in a store without
ranges, or behind a pipe, from a local copy of the whole shard (`shard_cache`).
"""

from __future__ import annotations

import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from albef.errors import DataError
from pipeline.data.corpus import stores
from pipeline.data.corpus.locations import SampleRef
from pipeline.data.corpus.shard_cache import ShardCache
from samples.quote import quote
from samples.record import RecordFault, stored_captions
from samples.shard import NoPair, sample_of_range
from samples.tar import TarDamage

MAX_OPEN_SHARDS = 64
"""File handles that a reader keeps open: usually more than the shards of the current shuffle windows."""


class BadSample(Exception):
    """A sample that cannot be used; it is counted under `reason`, and `detail` is for the log."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class RawSample:
    """A sample as stored in the shard: still encoded."""

    name: str
    jpg: bytes
    captions: list[str]


class ShardReader:
    """Reads samples by byte range, keeping a few files open. Not shared between threads; pickles without its handles.

    Args:
        max_open: files kept open; the least recently used one is closed first.
        cache: streams shards to a local disk before they are read; None reads them in their store.
    """

    def __init__(self, max_open: int = MAX_OPEN_SHARDS, cache: ShardCache | None = None) -> None:
        self._max_open = max_open
        self._cache = cache
        self._files: OrderedDict[str, int] = OrderedDict()

    def read(self, ref: SampleRef) -> RawSample:
        """The sample at `ref`.

        Raises: BadSample with one of the reasons `shard_unreadable`, `shard_truncated`, `tar_damaged`,
        `key_mismatch`, `member_missing`, `json_damaged`, `caption_missing`.
        """
        where = f"{ref.path} at {ref.offset}"
        try:
            sample = sample_of_range(self._bytes(ref))
        except TarDamage as damage:
            reason = "member_missing" if isinstance(damage, NoPair) else "tar_damaged"
            raise BadSample(reason, f"{where}: {quote(damage.member)}: {damage}") from damage
        if sample.key != ref.key:
            raise BadSample("key_mismatch", f"{where}: wanted {quote(ref.key)}, found {quote(sample.key)}")
        try:
            captions = stored_captions(sample.meta)
        except RecordFault as fault:
            raise BadSample(fault.reason, f"{ref.path}, {quote(ref.key)}.json: {fault.detail}") from fault
        return RawSample(name=ref.name, jpg=sample.image, captions=captions)

    def close(self) -> None:
        """Close every file."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __getstate__(self) -> dict[str, Any]:
        return {"_max_open": self._max_open, "_cache": self._cache, "_files": OrderedDict()}

    def __del__(self) -> None:
        self.close()

    def _bytes(self, ref: SampleRef) -> bytes:
        if self._cache is None and not stores.is_url(ref.path):
            data = self._local(ref)
        else:
            data = self._fetched(ref)
        if len(data) != ref.length:
            detail = f"{ref.path} at {ref.offset}: {len(data)} of {ref.length} bytes"
            raise BadSample("shard_truncated", detail)
        return data

    def _local(self, ref: SampleRef) -> bytes:
        try:
            return os.pread(self._file(ref.path), ref.length, ref.offset)
        except OSError as error:
            # A handle can go stale (remounted or replaced file): drop it, so that the next read opens the file again.
            self._forget(ref.path)
            raise BadSample("shard_unreadable", f"{ref.path}: {error.strerror or error}") from error

    def _fetched(self, ref: SampleRef) -> bytes:
        try:
            if self._cache is not None:
                return self._cache.read(ref.path, ref.shard_bytes, ref.offset, ref.length)
            return stores.read_range(ref.path, ref.offset, ref.length, ref.shard_bytes)
        except DataError as error:
            raise BadSample("shard_unreadable", f"{error.message}; {error.hint}") from error
        except Exception as error:
            if not stores.is_store_fault(error):
                raise
            raise BadSample("shard_unreadable", f"{ref.path}: {str(error) or type(error).__name__}") from error

    def _file(self, path: str) -> int:
        if path in self._files:
            self._files.move_to_end(path)
            return self._files[path]
        if len(self._files) >= self._max_open:
            os.close(self._files.popitem(last=False)[1])
        self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe is an error, not a wait
        return self._files[path]

    def _forget(self, path: str) -> None:
        if path in self._files:
            os.close(self._files.pop(path))
