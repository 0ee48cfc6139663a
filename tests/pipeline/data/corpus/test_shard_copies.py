"""The folder of copies of shards: only copies make room, and all else that lies there stays."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from albef.errors import ConfigError
from pipeline.data.corpus.manifest import read_manifest
from pipeline.data.corpus.reader import BadSample, ShardReader
from pipeline.data.corpus.shard_cache import ShardCache, shard_cache
from tests.support.shards import write_corpus


class Cache:
    """A cache with room for two of five shards, six samples each, in `scratch`."""

    def __init__(self, folder: Path) -> None:
        self.manifest = read_manifest(write_corpus(folder / "data", [6] * 5))
        self.bytes = max(shard.num_bytes for shard in self.manifest.shards)
        self.scratch = folder / "scratch"
        self.copies = self.scratch / "albef_shard_copies"
        cache = ShardCache(opener="pipe:cat {path}", folder=str(self.scratch), max_bytes=2 * self.bytes)
        self.reader = ShardReader(cache=cache)

    def read(self, *shards: int) -> None:
        """Read a sample of each of these shards."""
        for shard in shards:
            assert self.reader.read(self.manifest.sample(6 * shard)).name == f"{6 * shard:09d}"

    def tars(self) -> set[Path]:
        return set(self.copies.glob("*.tar"))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path)


def test_other_tars_in_the_folder_neither_go_nor_count(cache):
    """An old backup, a tar whose name has the form of a copy's name, in cache_dir and in our folder."""
    cache.read(0)
    mine = [
        cache.scratch / "backup.tar",
        cache.scratch / f"{'0123456789abcdef' * 2}.tar",
        cache.copies / "backup.tar",
        cache.copies / f"{'deadbeef' * 4}.tar",
    ]
    for path in mine:
        path.write_bytes(b"mine" * cache.bytes)
        os.utime(path, (0, 0))
    for turn in range(3):
        cache.read(*range(5))
        assert [path for path in mine if path.read_bytes() != b"mine" * cache.bytes] == [], f"turn {turn}"
        assert len(cache.tars() - set(mine)) == 2


def test_a_copy_that_somebody_replaced_stays(cache, tmp_path):
    """By another file, by other content, by a link to a tar elsewhere: it is kept, and named when its shard is read."""
    mine = tmp_path / "mine.tar"
    for number, replace in enumerate(("renamed", "written", "linked")):
        before = cache.tars()
        cache.read(number)
        (copy,) = cache.tars() - before
        mine.write_bytes(b"mine")
        if replace == "written":
            copy.write_bytes(b"mine")
        else:
            copy.unlink()
            mine.rename(copy) if replace == "renamed" else copy.symlink_to(mine)
        os.utime(copy, (0, 0), follow_symlinks=False)
        cache.read(3, 4, 3)
        assert copy.read_bytes() == b"mine", replace
        with pytest.raises(BadSample, match="is not the file that was written there"):
            cache.read(number)
        assert copy.read_bytes() == b"mine", replace


def test_half_copies_of_killed_workers_go_and_others_stay(cache):
    """The lock of a half copy shows whether somebody still writes it."""
    cache.read(0)
    left, written = (cache.copies / f"{name * 8}.part" for name in ("1111", "2222"))
    for part in (left, written):
        part.write_bytes(b"half")
    with written.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        cache.read(1)
    assert written.exists() and not left.exists()
    cache.read(2)
    assert not written.exists()


def test_a_folder_of_our_name_that_somebody_else_made_is_refused(cache):
    """And nothing in it is touched."""
    cache.copies.mkdir(parents=True)
    (cache.copies / "notes").write_text("mine")
    with pytest.raises(BadSample, match="this pipeline did not make it"):
        cache.read(0)
    with pytest.raises(ConfigError, match=r"data\.cache_dir .*this pipeline did not make it"):
        made(cache, str(cache.scratch))
    assert [path.name for path in cache.copies.iterdir()] == ["notes"]


def made(cache: Cache, folder: str) -> ShardCache | None:
    """The cache that a recipe asks for."""
    sizes = {shard.path: shard.num_bytes for shard in cache.manifest.shards}
    return shard_cache("pipe:cat {path}", folder, 1.0, shard_bytes=sizes, shards_at_once=2)


def test_the_corpus_own_folder_is_refused_by_name(cache, tmp_path, monkeypatch):
    """By its path, a path relative to here, through a link, and a folder inside it. Its parent will do."""
    shards = Path(os.path.dirname(cache.manifest.shards[0].path))
    (tmp_path / "link").symlink_to(shards)
    monkeypatch.chdir(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in shards.rglob("*")}
    for folder in (shards, os.path.relpath(shards), f"{shards}/", tmp_path / "link", shards / "cache"):
        with pytest.raises(ConfigError, match=r"is the folder of the corpus' own shards, or lies in it"):
            made(cache, str(folder))
    assert {path: path.stat().st_mtime_ns for path in shards.rglob("*")} == before
    assert made(cache, str(tmp_path)) is not None
    assert made(cache, f"{shards}_of_mine") is not None
