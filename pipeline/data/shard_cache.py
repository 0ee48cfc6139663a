"""Shards that cannot be read in part: streamed whole, once, into a bounded folder on this machine, read from there.

For stores without byte ranges and for pipes. The stream is opened by webdataset's `gopen`: `pipe:COMMAND`, or any
address it has an opener for. Workers and ranks of one machine share the folder; a lock a shard lets one of them fetch
it while the others wait. When the folder is full, the shard that was used longest ago goes.

The cost: every epoch moves the whole corpus once (and again what was dropped too early), and the first batch waits for
the shards of its window. A store with ranges moves the samples' bytes only and starts at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from albef.errors import ConfigError, DataError
from pipeline.data.stores import patiently

GIB = 2**30
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """Local copies of shards. Small and without handles: workers get it by pickle.

    Args:
        opener: what gopen opens, with {path} for the shard's path or URL, {name} for its last part.
        folder: where copies lie; made when needed.
        max_bytes: copies take at most this, beside those being fetched.
        cost: what this means for the run, a line for the log.
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
                handle = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:  # dropped between the two, by another worker: fetch it again
                continue
            try:
                return os.pread(handle, length, offset)
            finally:
                os.close(handle)  # not kept: the room of a dropped copy must come free

    def address(self, path: str) -> str:
        """What gopen is told to open for a shard."""
        quote = shlex.quote if self.opener.startswith("pipe:") else str
        return self.opener.replace("{path}", quote(path)).replace("{name}", quote(path.rpartition("/")[2]))

    def _fetched(self, path: str, shard_bytes: int) -> Path:
        name = hashlib.sha256(f"{path} {shard_bytes}".encode()).hexdigest()[:32] + ".tar"
        copy = Path(self.folder, name)
        if self._touched(copy):
            return copy
        Path(self.folder).mkdir(parents=True, exist_ok=True)
        with _locked(copy.with_suffix(".lock")):
            if not self._touched(copy):  # another worker has fetched it meanwhile
                patiently(lambda: self._stream(path, shard_bytes, copy), path)
        return copy

    @staticmethod
    def _touched(copy: Path) -> bool:
        """Whether the copy is there; if so it counts as used now."""
        try:
            os.utime(copy)
        except FileNotFoundError:
            return False
        return True

    def _stream(self, path: str, shard_bytes: int, copy: Path) -> None:
        from webdataset.gopen import gopen  # imports torch, which a process that builds batches has

        # One name a shard, under the shard's lock: what a killed worker left is overwritten, and never adds up.
        partial = copy.with_suffix(".part")
        try:
            with commands_hear_signals():
                stream = gopen(self.address(path))
            # closing a pipe raises when its command's exit code is not 0
            with closing(stream), open(partial, "wb") as file:
                while chunk := stream.read(CHUNK):
                    file.write(chunk)
            found = partial.stat().st_size
            if found != shard_bytes:
                raise OSError(f"{self.address(path)} gave {found} bytes, the manifest says {shard_bytes}")
            self._publish(partial, copy)
        finally:
            partial.unlink(missing_ok=True)

    def _publish(self, partial: Path, copy: Path) -> None:
        """Drop the copies used longest ago until the new one fits, and put it there."""
        with _locked(Path(self.folder, "room.lock")):
            wanted = partial.stat().st_size
            copies = sorted((entry for entry in os.scandir(self.folder) if entry.name.endswith(".tar")), key=_last_used)
            used = sum(_size(entry) for entry in copies)
            for entry in copies:
                if used + wanted <= self.max_bytes:
                    break
                used -= _size(entry)
                Path(entry.path).unlink(missing_ok=True)
            os.replace(partial, copy)


def shard_cache(
    opener: str | None, folder: str | None, gib: float, *, shard_bytes: dict[str, int], shards_at_once: int
) -> ShardCache | None:
    """The cache that a recipe asks for; None without an opener.

    Args:
        shard_bytes: sizes of the corpus's shards, by path or URL.
        shards_at_once: what the shuffle windows read from at one time.

    Raises: ConfigError when the keys do not belong together; DataError when a window does not fit.
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
    total, window = sum(shard_bytes.values()), sum(sorted(shard_bytes.values(), reverse=True)[:shards_at_once])
    if window > gib * GIB:
        raise DataError(
            f"data.cache_gib {gib:g} holds less than the shuffle window: {shards_at_once} shards of up to "
            f"{window / GIB:.3g} GiB",
            "every batch would fetch shards again: raise data.cache_gib, or lower data.shuffle_window_shards",
        )
    moved = "once, for all of it fits" if total <= gib * GIB else "in every epoch"
    cost = (
        f"each shard is streamed whole by {opener!r} into {folder} (at most {gib:g} GiB): "
        f"{total / GIB:.3g} GiB {moved}; "
        f"the first batch waits for up to {shards_at_once} shards, {window / GIB:.3g} GiB. "
        "Reading by ranges, from a disk or s3://, gs://, http://, costs none of this"
    )
    return ShardCache(opener=opener, folder=folder, max_bytes=int(gib * GIB), cost=cost)


@contextmanager
def commands_hear_signals() -> Iterator[None]:
    """What is started in here has no signal blocked, though a worker has (`prepare_worker`): `timeout` must be able to
    end a command. Signals that waited for this worker meanwhile reach a handler that does nothing."""
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


def _check_scheme(opener: str, path: str) -> None:
    """Raises: ConfigError when webdataset has no opener for the address. (A pipe's command shows when it runs.)"""
    scheme = urlsplit(opener.replace("{path}", path)).scheme
    if scheme in ("", "pipe", "file"):
        return
    from webdataset.gopen import gopen_schemes

    if scheme not in gopen_schemes:
        raise ConfigError(
            f"data.shard_opener {opener!r}: webdataset opens no {scheme}:// addresses",
            f"it opens {', '.join(sorted(name for name in gopen_schemes if not name.startswith('_')))}; "
            "`pipe:COMMAND {path}` runs any command",
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Alone among this machine's processes. The lock goes with the process that holds it, however that ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _last_used(entry: os.DirEntry[str]) -> float:
    try:
        return entry.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(entry: os.DirEntry[str]) -> int:
    try:
        return entry.stat().st_size
    except FileNotFoundError:
        return 0
