"""The corpus to train on, from `manifest.parquet`. Rows of shards are read at once, those of samples when needed."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import braceexpand
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from albef.errors import DataError
from pipeline.config.sections import DataConfig
from pipeline.data.corpus import sample_rows, stores
from pipeline.data.corpus.locations import Locations, SampleRef
from pipeline.data.corpus.manifest_columns import check_counts, read_short
from pipeline.data.corpus.reader import ShardReader
from pipeline.data.corpus.sample_rows import SampleRows, ShardRows
from pipeline.data.corpus.shard_cache import ShardCache, shard_cache
from pipeline.data.corpus.splits import Split
from samples.quote import quote

log = logging.getLogger(__name__)

FILE_NAME = "manifest.parquet"
VERSION = "1"
VERSION_KEY = b"albef_manifest_version"
COLUMNS = ("path", "source", "num_samples", "bytes", "sha256")
"""The columns of a shard that training needs; the manifest has more (yield, failures, tools) for `data_prep`."""
MAX_FILES = 10_000
"""Largest number of manifests that a brace pattern may name."""
SELECTION = "keys_sha256"
"""A column that manifests of whole tars may lack."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One row of a manifest."""

    path: str
    source: str
    num_samples: int
    num_bytes: int
    sha256: str
    keys_sha256: str | None = None
    """SHA-256 of the keys, if the manifest names only some of the tar's samples (`data_prep filter`)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Manifest:
    """The shards in manifest order, and where each sample lies; a `pipeline.data.corpus.protocol.Corpus`."""

    paths: tuple[str, ...]
    """The manifest files read, as paths or URLs."""
    sources: tuple[str, ...]
    """(K,) the entries of data.manifests: each is a source, even if it is a pattern that names several files."""
    source_shards: np.ndarray
    """(K+1,) int64: source k holds the shards source_shards[k] .. source_shards[k+1]-1."""
    shards: tuple[Shard, ...]
    starts: np.ndarray
    """(S+1,) int64: shard s holds the samples starts[s] .. starts[s+1]-1."""
    prefixes: tuple[str, ...]
    """(S,) the prefix that makes a key a sample's name, `` or `source/`. Keys are unique within one manifest file."""
    files: tuple[SampleRows, ...]
    """Where the samples lie, file by file, in the shards' order."""
    file_shards: np.ndarray
    """(F+1,) int64: file f describes the shards file_shards[f] .. file_shards[f+1]-1."""
    cache: ShardCache | None = None
    """Streams whole shards; None reads byte ranges of them."""

    @property
    def num_samples(self) -> int:
        """N, over all shards."""
        return int(self.starts[-1])

    @property
    def shard_sizes(self) -> np.ndarray:
        """(S,) int64 samples per shard."""
        return np.diff(self.starts)

    @property
    def source_sizes(self) -> np.ndarray:
        """(K,) int64 samples per source."""
        return np.diff(self.starts[self.source_shards])

    def fingerprint(self) -> str:
        """Sixteen hex digits that stay the same while samples, their order and their names do.

        A hash of each shard's facts (samples, bytes, SHA-256 of the tar and of selected keys, prefix of its names) and
        of where sources end; not of paths, so that data may be moved.
        """
        digest = hashlib.sha256(" ".join(map(str, self.source_shards)).encode())
        for shard, prefix in zip(self.shards, self.prefixes, strict=True):
            digest.update(f"\n{shard.num_samples} {shard.num_bytes} {shard.sha256} {prefix}".encode())
            if shard.keys_sha256 is not None:  # a whole tar is identified by its own SHA-256
                digest.update(f" {shard.keys_sha256}".encode())
        return digest.hexdigest()[:16]

    def splits(self) -> list[Split]:
        """The sources. Images are not named: the keys of shards are numbers, and URLs are in the tars."""
        found = []
        bounds = zip(self.source_shards[:-1].tolist(), self.source_shards[1:].tolist(), strict=True)
        for source, (first, end) in zip(self.sources, bounds, strict=True):
            shards = self.shards[first:end]
            facts = "\n".join(f"{one.num_samples} {one.sha256} {one.keys_sha256}" for one in shards)
            found.append(
                Split(
                    name=source.rstrip("/").removesuffix(f"/{FILE_NAME}").rpartition("/")[2],
                    sha256=hashlib.sha256(facts.encode()).hexdigest(),
                    num_entries=sum(one.num_samples for one in shards),
                    images=None,
                )
            )
        return found

    def rows(self, shard: int) -> ShardRows:
        """The samples of a shard. Raises: DataError when the manifest contradicts itself about it."""
        file = int(np.searchsorted(self.file_shards, shard, side="right")) - 1
        return self.files[file].shard(shard - int(self.file_shards[file]))

    def locate(self, indices: np.ndarray) -> Locations:
        """Where the samples at `indices` ((n,) int64) lie: some 20 microseconds per shard that was read before.

        Raises: DataError when the manifest contradicts itself about one of their shards.
        """
        shards = np.searchsorted(self.starts, indices, side="right") - 1
        distinct, which = np.unique(shards, return_inverse=True)
        offsets, lengths = np.empty(len(indices), dtype=np.int64), np.empty(len(indices), dtype=np.int64)
        keys = np.empty(len(indices), dtype=object)
        by_shard = np.argsort(which, kind="stable")
        ends = np.cumsum(np.bincount(which, minlength=len(distinct)))
        for shard, group in zip(distinct.tolist(), np.split(by_shard, ends[:-1]), strict=True):
            rows, positions = self.rows(shard), indices[group] - self.starts[shard]
            offsets[group], lengths[group] = rows.offsets[positions], rows.lengths[positions]
            keys[group] = rows.keys.take(pa.array(positions)).to_pylist()
        return Locations(
            paths=[self.shards[shard].path for shard in distinct],
            sizes=[self.shards[shard].num_bytes for shard in distinct],
            prefixes=[self.prefixes[shard] for shard in distinct],
            shards=which,
            offsets=offsets,
            lengths=lengths,
            keys=keys.tolist(),
        )

    def reader(self) -> ShardReader:
        """Reads the samples that `locate` finds; logs what that costs with a cache."""
        if cost := self.reading_cost():
            log.info("%s", cost)
        return ShardReader(cache=self.cache)

    def cached(self, data: DataConfig) -> Manifest:
        """The same shards, streamed through the cache that a recipe asks for, if it does. Raises: see `shard_cache`."""
        cache = shard_cache(
            data.shard_opener,
            data.cache_dir,
            data.cache_gib,
            shard_bytes={shard.path: shard.num_bytes for shard in self.shards},
            shards_at_once=data.shuffle_window_shards * (len(data.weights) if data.weights else 1),
        )
        return replace(self, cache=cache)

    def reading_cost(self) -> str:
        """What streaming costs; empty without a cache."""
        return "" if self.cache is None else self.cache.cost

    def check(self) -> None:
        """Check every sample's row, which takes seconds for millions; training checks a row when it reads it.

        Raises: DataError when a manifest contradicts itself or uses a key twice.
        """
        for file in self.files:
            file.check_keys()

    def sample(self, index: int) -> SampleRef:
        """Where sample `index` lies."""
        return self.locate(np.array([index]))[0]

    def names(self, indices: np.ndarray) -> list[str]:
        """The names of the samples at `indices`: keys, with a prefix when several manifests are read."""
        return [ref.name for ref in self.locate(indices)]


def read_manifest(where: str | Path | Sequence[str | Path], *, check_shards: bool = True) -> Manifest:
    """Read and check one manifest, or several as one corpus.

    Args:
        where: a manifest.parquet, the folder that holds one, a brace pattern of either
            (`/data/{cc3m,cc12m-{0..3}}`), or a list of those. Each may be a URL that fsspec opens. Order matters: it
            fixes the sample indices. Each entry is a separate source.
        check_shards: check that every shard exists and has its size; False where an opener fetches them.

    Raises: DataError when a file is missing, of another version, lacks columns, or names a shard that is missing or has
        another size. Its rows of samples are checked when they are needed, or by `Manifest.check`.
    """
    patterns = [where] if isinstance(where, str | Path) else list(where)
    paths_of = [_expand(str(pattern)) for pattern in patterns]
    paths = [path for of_pattern in paths_of for path in of_pattern]
    if not paths:
        raise DataError("no manifest was named", "set data.manifests to the folder that `data_prep verify` wrote")
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise DataError(f"manifest {twice} is named twice", "name each manifest once in data.manifests")
    files = [_read_file(path, check_shards) for path in paths]
    ends = np.cumsum([0, *map(len, paths_of)])
    file_shards = np.cumsum([0, *(len(table) for table, _ in files)])
    return _concatenate(paths, files, file_shards, tuple(map(str, patterns)), file_shards[ends])


def _expand(pattern: str) -> list[str]:
    try:
        names = list(itertools.islice(braceexpand.braceexpand(pattern), MAX_FILES + 1))
    except ValueError as error:  # unbalanced braces
        raise DataError(f"brace pattern '{quote(pattern)}': {quote(error)}", "close every { with a }") from error
    if len(names) > MAX_FILES:
        raise DataError(f"brace pattern '{quote(pattern)}' names more than {MAX_FILES:,} manifests", "name fewer")
    return [_manifest_file(stores.plain(name)) for name in names]


def _manifest_file(name: str) -> str:
    if stores.is_url(name):
        return name if name.endswith(".parquet") else f"{name.rstrip('/')}/{FILE_NAME}"
    is_folder = os.path.isdir(name)
    file = os.path.join(name, FILE_NAME) if is_folder else name
    if not os.path.isfile(file):
        what = f"no {FILE_NAME} in {quote(name)}" if is_folder else f"no manifest at {quote(name)}"
        hint = "`python -m data_prep verify DIR` writes it once the shards are complete"
        looked = "" if os.path.exists(name) else f"searched {quote(os.path.dirname(name) or '.')}; "
        raise DataError(what, looked + hint)
    return os.path.abspath(file)


def _shard_path(manifest: str, name: str) -> str:
    """A shard's path or URL: the manifest gives it relative to its own folder."""
    if stores.is_url(name):
        return name
    if stores.is_url(manifest):
        return stores.join(stores.parent(manifest), name)
    return os.path.join(os.path.dirname(manifest), name)


def _open(path: str) -> pa.NativeFile:
    if not stores.is_url(path):
        return pa.OSFile(path)
    try:
        return pa.BufferReader(stores.read_file(path))
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"no manifest at {path}", "copy it there beside its shards, or correct the URL") from error
    except Exception as error:
        if isinstance(error, pa.ArrowException) or not stores.is_store_fault(error):
            raise
        raise DataError(
            f"{quote(path)} cannot be fetched: {stores.fault(error)}",
            "are the URL, the network and the credentials of this machine right?",
        ) from error


def _read_file(path: str, check_shards: bool) -> tuple[pa.Table, SampleRows]:
    try:
        source = _open(path)
        file = pq.ParquetFile(source)
        version = (file.schema_arrow.metadata or {}).get(VERSION_KEY, b"").decode("utf-8", "replace")
        if version != VERSION:
            raise DataError(
                f"{path} is a manifest of version {quote(version) or 'none'}, this program reads version {VERSION}",
                "write it again with the data_prep of the same checkout: `python -m data_prep verify DIR`",
            )
        needed = (*COLUMNS, *sample_rows.COLUMNS)
        missing = [name for name in needed if name not in file.schema_arrow.names]
        if missing:
            raise DataError(f"{path} lacks the columns {', '.join(missing)}", "write it again with `data_prep verify`")
        columns = [*COLUMNS, *({SELECTION} & set(file.schema_arrow.names))]
        table = read_short(path, file, columns)
    except (pa.ArrowException, OSError) as error:
        why = quote(" ".join(str(error).split()), 150)
        raise DataError(f"{path} cannot be read: {why}", "write it again with `data_prep verify`") from error
    if not any(table["num_samples"].to_pylist()):
        raise DataError(f"{path} lists no sample", "did every download fail? See `data_prep report DIR`")
    if check_shards:
        _check_files(path, table)
    check_counts(path, table, source.size())
    return table, SampleRows(path, file, table)


def _check_files(path: str, table: pa.Table) -> None:
    """Check that every shard exists and has its size, by one stat per shard, or one listing of a remote folder."""
    names, expected = table["path"].to_pylist(), table["bytes"].to_pylist()
    found = _sizes_on_disk(path, names) if not stores.is_url(path) else _sizes_in_store(path, names)
    if found is None:
        return
    missing = [quote(name, 60) for name in names if name not in found]
    resized = [
        f"{quote(name, 60)} ({found[name]} bytes, the manifest has {num_bytes})"
        for name, num_bytes in zip(names, expected, strict=True)
        if found.get(name, num_bytes) != num_bytes
    ]
    for files, what in ((missing, "missing"), (resized, "of another size")):
        if files:
            shown = ", ".join(files[:3]) + (", ..." if len(files) > 3 else "")
            raise DataError(
                f"{path}: {len(files)} of {len(table)} shards are {what}: {shown}",
                "copy them again beside the manifest, or run `data_prep verify` to list what is there now",
            )


def _sizes_on_disk(manifest: str, names: Sequence[str]) -> dict[str, int]:
    found = {}
    for name in names:
        with contextlib.suppress(OSError):  # a shard without an entry is missing
            found[name] = os.stat(_shard_path(manifest, name)).st_size
    return found


def _sizes_in_store(manifest: str, names: Sequence[str]) -> dict[str, int] | None:
    """The size of each of these shards that the store has; None where the store cannot list (http)."""
    urls = {_shard_path(manifest, name): name for name in names}
    try:
        listed = stores.sizes(list(urls))
    except DataError:
        raise
    except Exception as error:
        if not stores.is_store_fault(error):
            raise
        what = f"{quote(stores.parent(manifest))} cannot be listed: {stores.fault(error)}"
        raise DataError(what, "may these credentials list it?") from error
    return None if listed is None else {name: listed[url] for url, name in urls.items() if url in listed}


def _concatenate(
    paths: Sequence[str],
    files: Sequence[tuple[pa.Table, SampleRows]],
    file_shards: np.ndarray,
    sources: tuple[str, ...],
    source_shards: np.ndarray,
) -> Manifest:
    tables = [table for table, _ in files]
    shards: list[Shard] = []
    prefixes: list[str] = []
    for path, table, prefix in zip(paths, tables, _name_prefixes(tables), strict=True):
        names = [*COLUMNS, *({SELECTION} & set(table.column_names))]  # in the order of Shard's fields
        columns = (table[name].to_pylist() for name in names)
        shards += [Shard(_shard_path(path, name), *rest) for name, *rest in zip(*columns, strict=True)]
        prefixes += [prefix] * len(table)
    return Manifest(
        paths=tuple(paths),
        sources=sources,
        source_shards=source_shards,
        shards=tuple(shards),
        starts=np.concatenate([[0], np.cumsum([shard.num_samples for shard in shards], dtype=np.int64)]),
        prefixes=tuple(prefixes),
        files=tuple(rows for _, rows in files),
        file_shards=file_shards,
    )


def _name_prefixes(tables: Sequence[pa.Table]) -> list[str]:
    """Empty for one manifest; for several their source if that distinguishes them, else their number in the list."""
    if len(tables) == 1:
        return [""]
    sources = ["+".join(sorted(set(table["source"].to_pylist()))) for table in tables]
    if all(sources) and len(set(sources)) == len(sources):
        return [f"{source}/" for source in sources]
    return [f"{number}/" for number in range(len(tables))]
