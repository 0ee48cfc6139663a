"""The folder of local copies of shards: which files in it are ours, and which of them is removed to make room.

`data.cache_dir` may hold other files, so copies lie in our own folder inside it. A record beside each copy has its
inode and size. A file without a record, or replaced since, is not ours, and is neither removed nor counted.
"""

from __future__ import annotations

import fcntl
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from samples.plain_file import read_plain

FOLDER = "albef_shard_copies"
MARK = "made_by_pipeline"
"""A file that marks a folder as ours; a folder of the same name without it belongs to someone else."""
_MARK_TEXT = "Copies of shards that `pipeline pretrain` streamed (data.shard_opener). It removes them to make room.\n"
_COPY = re.compile(r"[0-9a-f]{32}\.tar")
_PART = re.compile(r"[0-9a-f]{32}\.part")


@dataclass(frozen=True, kw_only=True)
class ShardCopies:
    """Copies of shards in one folder, which any number of runs and ranks may share. Without handles, so it pickles.

    Args:
        cache_dir: our folder is created inside it.
        max_bytes: limit on the size of all copies, not counting those being fetched.
    """

    cache_dir: str
    max_bytes: int

    @property
    def folder(self) -> Path:
        """Where the copies lie."""
        return Path(self.cache_dir, FOLDER)

    def fault(self) -> str:
        """Why copies cannot be kept there; empty if they can, or if the folder does not exist yet."""
        if not os.path.lexists(self.folder):
            return ""
        if self.folder.is_symlink() or not self.folder.is_dir():
            return f"{self.folder} is not a folder"
        if (names := os.listdir(self.folder)) and MARK not in names:
            return f"{self.folder} holds files, and no {MARK}: this pipeline did not make it"
        return ""

    def copy(self, name: str) -> Path:
        """Where the copy of this name (32 hexadecimal digits) lies."""
        return self.folder / f"{name}.tar"

    def use(self, copy: Path) -> bool:
        """Whether the copy exists; if so, mark it as used now.

        Raises: OSError when the file there is not our copy.
        """
        try:
            found = copy.lstat()
        except FileNotFoundError:
            return False
        if not _is_ours(copy, found):
            raise FileExistsError(f"{copy} is not the file that was written there: move it elsewhere")
        os.utime(copy, follow_symlinks=False)
        return True

    @contextmanager
    def fetching(self, copy: Path) -> Iterator[Path]:
        """The file to write the copy to, while no other process of this machine fetches it. Removed at the end."""
        self._make()
        partial = copy.with_suffix(".part")
        with _locked(copy.with_suffix(".lock")):
            try:
                yield partial
            finally:
                partial.unlink(missing_ok=True)

    def publish(self, partial: Path, copy: Path) -> None:
        """Remove the least recently used copies until the new one fits, then rename it into the folder."""
        with _locked(self.folder / "room.lock"):
            wanted = partial.stat().st_size
            self._drop_leftovers()
            ours = sorted(self._ours())
            used = sum(size for _, size, _ in ours)
            for _, size, path in ours:
                if used + wanted <= self.max_bytes:
                    break
                used -= size
                path.unlink(missing_ok=True)
                _record_of(path).unlink(missing_ok=True)
            # The record first: a copy without one would never be removed.
            _record_of(copy).write_text("{0.st_ino} {0.st_size}".format(partial.stat()))
            os.rename(partial, copy)

    def _make(self) -> None:
        if fault := self.fault():
            raise FileExistsError(f"{fault}; name another data.cache_dir")
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / MARK).exists():
            (self.folder / MARK).write_text(_MARK_TEXT)

    def _ours(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes, path) of every copy."""
        found = []
        for path in self._named(_COPY):
            with suppress(FileNotFoundError):  # removed by hand since
                facts = path.lstat()
                if _is_ours(path, facts):
                    found.append((facts.st_mtime, facts.st_size, path))
        return found

    def _named(self, form: re.Pattern[str]) -> list[Path]:
        return [self.folder / name for name in os.listdir(self.folder) if form.fullmatch(name)]

    def _drop_leftovers(self) -> None:
        """Remove unfinished copies whose lock is free: their worker was killed."""
        for part in self._named(_PART):
            with _locked(part.with_suffix(".lock"), wait=False) as free:
                if free:
                    part.unlink(missing_ok=True)


def _record_of(copy: Path) -> Path:
    return copy.with_suffix(".record")


def _is_ours(copy: Path, found: os.stat_result) -> bool:
    """Whether a file is the one that the record beside it was written for."""
    try:
        record = read_plain(_record_of(copy), 100).split()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and record == [b"%d" % found.st_ino, b"%d" % found.st_size]


@contextmanager
def _locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock among this machine's processes: True if held; False, without `wait`, if another process holds it.
    The lock is released when its process ends in any way."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
