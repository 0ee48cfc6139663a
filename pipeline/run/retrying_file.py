"""A file of records that survives a full disk: records that cannot be written wait in memory until there is room.

For what training writes beside checkpoints (metrics, TensorBoard, logs), none of which is a reason to end a run. A full
disk, a quota, a lost mount, a file system that became read-only and a stale NFS handle all raise OSError, and all are
treated alike. The file is opened for each append and closed after it, so that a mount that comes back is used again,
and a network file system reports at the append that it is full, rather than never.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections import deque
from pathlib import Path
from typing import NamedTuple

from albef.errors import ConfigError

log = logging.getLogger(__name__)

MAX_WAITING = 16 << 20
"""Largest size in bytes of the waiting records, some 20,000 lines of metrics; beyond it the oldest are dropped."""
MAX_BATCH = 1 << 16
"""Bytes of waiting records per append, so that a part is written when there is room for only a part."""

# O_NONBLOCK: a FIFO without a reader is an error rather than a wait.
FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK


class _Whole(NamedTuple):
    """A file, and the size of its whole records."""

    device: int
    inode: int
    size: int

    def may_be_cut(self, found: os.stat_result) -> bool:
        """Whether `found` is this file with more at its end, and not a file of another disk mounted there since."""
        return (self.device, self.inode) == (found.st_dev, found.st_ino) and found.st_size > self.size


class RetryingFile:
    """Appends records to a file, in order, each of them whole or not at all. For one thread at a time.

    Logs the first failure with its reason, and once more when all waiting records are written.

    Args:
        path: of a regular file, in a folder that exists; the first append creates the file.
        max_waiting: bytes of records kept while the file cannot be written.
    """

    def __init__(self, path: Path, *, max_waiting: int = MAX_WAITING) -> None:
        self.path = path
        self._max_waiting = max_waiting
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._unfinished: _Whole | None = None
        """The file's state before a write that failed and may have left a part of its data."""
        self._failing = self._closed = False
        self._delayed = self._lost = 0
        """Since the first failure: the number of records not written at once, and of those dropped."""

    def append(self, record: bytes) -> None:
        """Write the waiting records and this one; if that fails, the record waits too. Never raises OSError."""
        if self._closed:
            return
        self._waiting.append(record)
        self._waiting_bytes += len(record)
        if (problem := self._write_waiting()) is not None:
            self._keep_waiting(problem)

    def write(self, data: bytes) -> None:
        """Append `data` at once and whole, ahead of waiting records: for data that a start cannot do without.

        Raises: OSError when it cannot be written; the file is then unchanged.
        """
        descriptor = os.open(self.path, FLAGS, 0o666)
        try:
            found = os.fstat(descriptor)
            if self._unfinished is not None and self._unfinished.may_be_cut(found):
                os.ftruncate(descriptor, self._unfinished.size)
                found = os.fstat(descriptor)
            self._unfinished = _Whole(found.st_dev, found.st_ino, found.st_size)
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(descriptor, rest) :]
            except OSError:
                with contextlib.suppress(OSError):  # otherwise the next write truncates it
                    os.ftruncate(descriptor, found.st_size)
                    self._unfinished = None
                raise
        finally:
            os.close(descriptor)
        self._unfinished = None

    def close(self) -> None:
        """Try once more to write the waiting records, and log how many are lost; later records are dropped."""
        if self._closed:
            return
        problem = self._write_waiting()
        self._closed = True
        if problem is not None:
            lost = self._lost + len(self._waiting)
            log.warning("%s cannot be written: %s. %d of its records are lost", self.path, reason(problem), lost)

    def _write_waiting(self) -> OSError | None:
        """Write the waiting records, oldest first. Returns the error that stopped it."""
        while self._waiting:
            batch = self._next_batch()
            try:
                self.write(b"".join(batch))
            except OSError as error:
                return error
            for record in batch:  # after the file is closed: NFS reports a full disk only then
                self._waiting_bytes -= len(record)
                self._waiting.popleft()
        if self._failing:
            late, lost = self._delayed - self._lost, self._lost
            self._failing, self._delayed, self._lost = False, 0, 0  # before logging, which may append to this file
            log.log(
                logging.WARNING if lost else logging.INFO,
                "%s can be written again: %d records were written late, %d are lost",
                *(self.path, late, lost),
            )
        return None

    def _next_batch(self) -> list[bytes]:
        """The oldest records: MAX_BATCH bytes of them, or a single larger one."""
        batch: list[bytes] = []
        size = 0
        for record in self._waiting:
            size += len(record)
            if batch and size > MAX_BATCH:
                break
            batch.append(record)
        return batch

    def _keep_waiting(self, problem: OSError) -> None:
        self._delayed += 1
        while self._waiting_bytes > self._max_waiting:
            self._waiting_bytes -= len(self._waiting.popleft())
            self._lost += 1
        if not self._failing:
            self._failing = True
            log.warning(
                "%s cannot be written: %s. Training continues; its records are kept in memory until there is room",
                *(self.path, reason(problem)),
            )


def reason(error: OSError) -> str:
    """`No space left on device`, without the path, which the message names already."""
    return error.strerror or str(error)


def unwritable(run_dir: Path, error: OSError) -> ConfigError:
    """The error of a start that cannot write its run folder."""
    hint = "give another --run-dir"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = f"make room there, and run the same command again; or {hint}"
    return ConfigError(f"run folder {run_dir} cannot be written: {error}", hint)
