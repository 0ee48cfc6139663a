"""Shards that cannot be read in part: stream each one whole into a bounded folder on this machine, and read it there.

For stores without byte ranges and for pipes. webdataset's `gopen` opens the stream: `pipe:COMMAND`, or any URL that it
has an opener for. Workers and ranks of one machine share the folder; a lock per shard lets one of them fetch it while
the others wait. When the folder is full, the least recently used shard is removed (`shard_copies`).

The cost: every epoch transfers the whole corpus once, and again those shards that were removed too early; and the first
batch waits for the shards of its window. A store with ranges transfers only the samples' bytes, and starts at once.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from urllib.parse import urlsplit

from albef.errors import ConfigError, DataError
from pipeline.data.corpus.shard_copies import ShardCopies
from pipeline.data.corpus.stores import patiently

GIB = 2**30
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """Local copies of shards. Small and without handles: workers get it by pickle.

    Args:
        opener: the URL or pipe that gopen opens, with {path} for the shard's path or URL, {name} for its file name.
        folder: copies lie in a folder of ours inside it, created when needed.
        max_bytes: limit on the size of all copies, not counting those being fetched.
        cost: what streaming costs this run, a line for the log.
    """

    opener: str
    folder: str
    max_bytes: int
    cost: str = ""

    def read(self, path: str, shard_bytes: int, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` of a shard; fewer where it ends sooner.

        Raises: OSError when the shard cannot be fetched, after some tries, or has another size.
        """
        while True:
            copy = self._fetched(path, shard_bytes)
            try:
                handle = os.open(copy, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:  # removed since by another worker: fetch it again
                continue
            try:
                return os.pread(handle, length, offset)
            finally:
                os.close(handle)  # not kept open: a removed copy must free its space

    def source(self, path: str) -> str:
        """The URL or pipe that gopen opens for a shard."""
        quote = shlex.quote if self.opener.startswith("pipe:") else str
        values = {"{path}": quote(path), "{name}": quote(path.rpartition("/")[2])}
        # In one pass: a path that holds `{name}` would have it replaced within its quotes, and so end them.
        return re.sub(r"\{(?:path|name)\}", lambda found: values[found[0]], self.opener)

    @property
    def copies(self) -> ShardCopies:
        """The folder of the copies."""
        return ShardCopies(cache_dir=self.folder, max_bytes=self.max_bytes)

    def _fetched(self, path: str, shard_bytes: int) -> Path:
        copies = self.copies
        copy = copies.copy(hashlib.sha256(f"{path} {shard_bytes}".encode()).hexdigest()[:32])
        if copies.use(copy):
            return copy
        with copies.fetching(copy) as partial:
            if not copies.use(copy):  # another worker has fetched it meanwhile
                patiently(lambda: self._stream(path, shard_bytes, partial), path)
                copies.publish(partial, copy)
        return copy

    def _stream(self, path: str, shard_bytes: int, partial: Path) -> None:
        from webdataset.gopen import gopen  # imports torch, which a process that builds batches has imported anyway

        with commands_hear_signals():
            stream = gopen(self.source(path))
        # closing a pipe raises when its command's exit code is not 0
        with closing(stream), open(partial, "wb", buffering=0) as file:
            while chunk := stream.read(CHUNK):
                self._write(file, chunk)
        found = partial.stat().st_size
        if found != shard_bytes:
            raise OSError(f"{self.source(path)} gave {found} bytes, the manifest has {shard_bytes}")

    def _write(self, file: FileIO, chunk: bytes) -> None:
        """Raises: DataError when the copy cannot be written: another request to the store would not help."""
        rest = memoryview(chunk)
        try:
            while rest:
                rest = rest[file.write(rest) :]
        except OSError as error:
            raise DataError(
                f"data.cache_dir {self.folder} cannot be written: {error.strerror}",
                "make room there, lower data.cache_gib, or name a folder on another disk",
            ) from error


def shard_cache(
    opener: str | None, folder: str | None, gib: float, *, shard_bytes: dict[str, int], shards_at_once: int
) -> ShardCache | None:
    """The cache of a recipe; None without an opener.

    Args:
        shard_bytes: sizes of the corpus's shards, by path or URL.
        shards_at_once: number of shards that the shuffle windows read from at one time.

    Raises: ConfigError when the keys contradict each other; DataError when a window does not fit.
    """
    if opener is None:
        return None
    if "{path}" not in opener and "{name}" not in opener:
        raise ConfigError(
            f"data.shard_opener {opener!r} names no shard", "write {path} or {name} in it: `pipe:cat {path}`"
        )
    if folder is None:
        raise ConfigError(
            "data.shard_opener needs data.cache_dir",
            "name a folder on this machine's own disk that has room for data.cache_gib",
        )
    _check_scheme(opener, next(iter(shard_bytes)))
    _check_folder(folder, shard_bytes)
    total, window = sum(shard_bytes.values()), sum(sorted(shard_bytes.values(), reverse=True)[:shards_at_once])
    if window > gib * GIB:
        raise DataError(
            f"data.cache_gib {gib:g} holds less than the shuffle window: {shards_at_once} shards of up to "
            f"{window / GIB:.3g} GiB",
            "every batch would fetch shards again: raise data.cache_gib, or lower data.shuffle_window_shards",
        )
    moved = "once, because all of it fits" if total <= gib * GIB else "in every epoch"
    cost = (
        f"each shard is streamed whole by {opener!r} into {folder} (at most {gib:g} GiB): "
        f"{total / GIB:.3g} GiB {moved}; "
        f"the first batch waits for up to {shards_at_once} shards, {window / GIB:.3g} GiB. "
        "Reading by ranges, from a disk or s3://, gs://, http://, avoids this cost"
    )
    return ShardCache(opener=opener, folder=folder, max_bytes=int(gib * GIB), cost=cost)


@contextmanager
def commands_hear_signals() -> Iterator[None]:
    """Start commands with no signal blocked, though this worker blocks some (`prepare_worker`): `timeout` must be able
    to end a command. Signals that are pending for this worker go to a handler that does nothing."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    if not blocked or threading.current_thread() is not threading.main_thread():
        yield
        return
    for number in blocked:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)


def _check_folder(folder: str, shards: Iterable[str]) -> None:
    """Raises: ConfigError when copies cannot be kept there, or the corpus' own shards are there."""
    real = os.path.realpath(folder)
    for of_shards in {os.path.dirname(path) for path in shards if "://" not in path}:
        if f"{real}/".startswith(f"{os.path.realpath(of_shards)}/"):
            raise ConfigError(
                f"data.cache_dir {folder} is the folder of the corpus' own shards, or lies in it: {of_shards}",
                "name another folder on this machine's own disk; copies of shards take data.cache_gib there",
            )
    if fault := ShardCopies(cache_dir=folder, max_bytes=0).fault():
        raise ConfigError(f"data.cache_dir {folder}: {fault}", "move that away, or name another folder")


def _check_scheme(opener: str, path: str) -> None:
    """Raises: ConfigError when webdataset has no opener for the URL. (A pipe's command is checked when it runs.)"""
    scheme = urlsplit(opener.replace("{path}", path)).scheme
    if scheme in ("", "pipe", "file"):
        return
    from webdataset.gopen import gopen_schemes

    if scheme not in gopen_schemes:
        raise ConfigError(
            f"data.shard_opener {opener!r}: webdataset opens no {scheme}:// URLs",
            f"it opens {', '.join(sorted(name for name in gopen_schemes if not name.startswith('_')))}; "
            "`pipe:COMMAND {path}` runs any command",
        )
