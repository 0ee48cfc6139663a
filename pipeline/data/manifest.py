"""What there is to train on: `manifest.parquet`, read once, checked, and kept as arrays (14M samples: about 450 MB)."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import braceexpand
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from albef.errors import DataError
from pipeline.data import stores
from pipeline.data.lanes import Locations, SampleRef

FILE_NAME = "manifest.parquet"
VERSION = "1"
VERSION_KEY = b"albef_manifest_version"
COLUMNS = ("path", "source", "num_samples", "bytes", "sha256", "keys", "offsets", "lengths")
"""What reading needs; the manifest holds more (yield, failures, tools), for people and for `data_prep`."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One row of a manifest."""

    path: str
    source: str
    num_samples: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Manifest:
    """The shards in manifest order, and for each sample where it lies. Sample index i counts through all shards."""

    paths: tuple[str, ...]
    """The manifest files read, as paths or URLs."""
    sources: tuple[str, ...]
    """(K,) what was asked for, entry by entry: each is a source, though a pattern may have named several files."""
    source_shards: np.ndarray
    """(K+1,) int64: source k holds the shards source_shards[k] .. source_shards[k+1]-1."""
    shards: tuple[Shard, ...]
    starts: np.ndarray
    """(S+1,) int64: shard s holds the samples starts[s] .. starts[s+1]-1."""
    offsets: np.ndarray
    """(N,) int64 byte offset of each sample in its tar."""
    lengths: np.ndarray
    """(N,) int64 bytes of each sample."""
    keys: pa.LargeStringArray
    """(N,) keys; unique within one manifest file."""
    prefixes: tuple[str, ...]
    """(S,) what goes before the key in a sample's name, `` or `source/`."""

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
        """Sixteen hex digits that stay while the same samples stand in the same order under the same names.

        Made of what each shard holds (samples, bytes, SHA-256 of the tar) and is called by, and of where sources end;
        not of paths, so that data may be moved.
        """
        digest = hashlib.sha256(" ".join(map(str, self.source_shards)).encode())
        for shard, prefix in zip(self.shards, self.prefixes, strict=True):
            digest.update(f"\n{shard.num_samples} {shard.num_bytes} {shard.sha256} {prefix}".encode())
        return digest.hexdigest()[:16]

    def locate(self, indices: np.ndarray) -> Locations:
        """Where the samples at `indices` ((n,) int64) lie. Vectorised: a fraction of a microsecond a sample."""
        shards = np.searchsorted(self.starts, indices, side="right") - 1
        distinct, which = np.unique(shards, return_inverse=True)
        return Locations(
            paths=[self.shards[s].path for s in distinct],
            sizes=[self.shards[s].num_bytes for s in distinct],
            prefixes=[self.prefixes[s] for s in distinct],
            shards=which,
            offsets=self.offsets[indices],
            lengths=self.lengths[indices],
            keys=self.keys.take(pa.array(indices)).to_pylist(),
        )

    def sample(self, index: int) -> SampleRef:
        """Where sample `index` lies."""
        return self.locate(np.array([index]))[0]

    def names(self, indices: np.ndarray) -> list[str]:
        """The recorded names of the samples at `indices`: keys, with a prefix when several manifests are read."""
        return [ref.name for ref in self.locate(indices)]


def read_manifest(where: str | Path | Sequence[str | Path], *, check_shards: bool = True) -> Manifest:
    """Read and check one manifest, or several as one corpus.

    Args:
        where: a manifest.parquet, the folder that holds one, a brace pattern of either
            (`/data/{cc3m,cc12m-{0..3}}`), or a list of those. Each may be a URL that fsspec opens. Order matters: it
            fixes the sample indices. Each entry is a source of its own.
        check_shards: look whether every shard is there and has its size; not where an opener fetches them.

    Raises: DataError when a file is missing, of another version, lacks columns, contradicts itself, names a shard
        that is missing or has another size, or uses a key twice.
    """
    patterns = [where] if isinstance(where, str | Path) else list(where)
    paths_of = [_expand(str(pattern)) for pattern in patterns]
    paths = [path for of_pattern in paths_of for path in of_pattern]
    if not paths:
        raise DataError("no manifest was named", "set data.manifests to the folder that `data_prep verify` wrote")
    if len(set(paths)) < len(paths):
        twice = next(path for path in paths if paths.count(path) > 1)
        raise DataError(f"manifest {twice} is named twice", "name each manifest once in data.manifests")
    tables = [_read_table(path, check_shards) for path in paths]
    ends = np.cumsum([0, *map(len, paths_of)])
    shards_before = np.cumsum([0, *map(len, tables)])
    return _concatenate(paths, tables, tuple(map(str, patterns)), shards_before[ends])


def _expand(pattern: str) -> list[str]:
    try:
        names = list(braceexpand.braceexpand(pattern))
    except ValueError as error:  # unbalanced braces
        raise DataError(f"brace pattern {pattern!r}: {error}", "close every { with a }") from error
    return [_manifest_file(stores.plain(name)) for name in names]


def _manifest_file(name: str) -> str:
    if stores.is_url(name):
        return name if name.endswith(".parquet") else f"{name.rstrip('/')}/{FILE_NAME}"
    path = Path(name)
    file = path / FILE_NAME if path.is_dir() else path
    if not file.is_file():
        what = f"no {FILE_NAME} in {path}" if path.is_dir() else f"no manifest at {path}"
        hint = "`python -m data_prep verify DIR` writes it once the shards are complete"
        raise DataError(what, hint if path.exists() else f"{path.parent} is what was looked in; {hint}")
    return os.path.abspath(file)


def _shard_path(manifest: str, name: str) -> str:
    """A shard's path or URL: the manifest gives it relative to its own folder."""
    return (
        f"{stores.parent(manifest)}/{name}"
        if stores.is_url(manifest)
        else os.path.join(os.path.dirname(manifest), name)
    )


def _open_table(path: str) -> pq.ParquetFile:
    if not stores.is_url(path):
        return pq.ParquetFile(path)
    try:
        return pq.ParquetFile(pa.BufferReader(stores.read_file(path)))
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"no manifest at {path}", "copy it there beside its shards, or correct the address") from error
    except Exception as error:
        if isinstance(error, pa.ArrowException) or not stores.is_store_fault(error):
            raise
        raise DataError(
            f"{path} cannot be fetched: {str(error) or type(error).__name__}",
            "are the address, the network and the credentials of this machine right?",
        ) from error


def _read_table(path: str, check_shards: bool) -> pa.Table:
    try:
        file = _open_table(path)
        version = (file.schema_arrow.metadata or {}).get(VERSION_KEY, b"").decode()
        if version != VERSION:
            raise DataError(
                f"{path} is a manifest of version {version or 'none'}, this program reads version {VERSION}",
                "write it again with the data_prep of the same checkout: `python -m data_prep verify DIR`",
            )
        missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
        if missing:
            raise DataError(f"{path} lacks the columns {', '.join(missing)}", "write it again with `data_prep verify`")
        table = file.read(columns=list(COLUMNS))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}", "write it again with `data_prep verify`") from error
    _check_rows(path, table)
    if check_shards:
        _check_files(path, table)
    _check_ranges(path, table)
    return table


def _check_rows(path: str, table: pa.Table) -> None:
    sizes = table["num_samples"].to_numpy()
    if not sizes.sum():
        raise DataError(f"{path} lists no sample", "had every download failed? `data_prep report DIR` tells")
    for name in ("keys", "offsets", "lengths"):
        wrong = np.flatnonzero(pc.list_value_length(table[name]).to_numpy() != sizes)
        if len(wrong):
            shard = table["path"][int(wrong[0])].as_py()
            raise DataError(
                f"{path}: shard {shard} has {sizes[wrong[0]]} samples but another number of {name}",
                "the manifest was edited or damaged: write it again with `data_prep verify`",
            )
    _check_keys(path, pc.list_flatten(table["keys"]).cast(pa.large_string()).combine_chunks())


def _check_ranges(path: str, table: pa.Table) -> None:
    """A range never leaves its tar."""
    offsets, lengths = _flat([table], "offsets"), _flat([table], "lengths")
    room = np.repeat(table["bytes"].to_numpy(), table["num_samples"].to_numpy())
    if (offsets < 0).any() or (lengths <= 0).any() or (offsets + lengths > room).any():
        raise DataError(f"{path}: samples lie outside their shard", "write it again with `data_prep verify`")


def _check_keys(path: str, keys: pa.LargeStringArray) -> None:
    """No key twice. Keys that ascend, as `data_prep` numbers them, need no table of 14M strings to show it."""
    if pc.all(pc.less(keys.slice(0, len(keys) - 1), keys.slice(1))).as_py() is not False:
        return
    num_distinct = len(pc.unique(keys))
    if num_distinct < len(keys):
        counts = pc.value_counts(keys)
        twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
        raise DataError(
            f"{path}: {len(keys) - num_distinct} keys are used twice, {twice[0].as_py()!r} first",
            "keys name samples and seed their augmentation: pack the shards again with distinct keys",
        )


def _check_files(path: str, table: pa.Table) -> None:
    """Every shard is there and has its size. Opens nothing: one stat a shard, or one listing of a remote folder."""
    names, expected = table["path"].to_pylist(), table["bytes"].to_pylist()
    found = _sizes_on_disk(path, names) if not stores.is_url(path) else _sizes_in_store(path, names)
    if found is None:
        return
    missing = [name for name in names if name not in found]
    resized = [
        f"{name} ({found[name]} bytes, the manifest says {num_bytes})"
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
        with contextlib.suppress(OSError):  # what is not in the answer is missing
            found[name] = os.stat(_shard_path(manifest, name)).st_size
    return found


def _sizes_in_store(manifest: str, names: Sequence[str]) -> dict[str, int] | None:
    """None where the store cannot tell (http)."""
    urls = {_shard_path(manifest, name): name for name in names}
    try:
        listed = stores.sizes(list(urls))
    except DataError:
        raise
    except Exception as error:
        if not stores.is_store_fault(error):
            raise
        raise DataError(
            f"{stores.parent(manifest)} cannot be listed: {error}", "may these credentials list it?"
        ) from error
    return None if listed is None else {name: listed[url] for url, name in urls.items() if url in listed}


def _concatenate(
    paths: Sequence[str], tables: Sequence[pa.Table], sources: tuple[str, ...], source_shards: np.ndarray
) -> Manifest:
    shards: list[Shard] = []
    prefixes: list[str] = []
    for path, table, prefix in zip(paths, tables, _name_prefixes(tables), strict=True):
        columns = (table[name].to_pylist() for name in ("path", "source", "num_samples", "bytes", "sha256"))
        shards += [Shard(_shard_path(path, name), *rest) for name, *rest in zip(*columns, strict=True)]
        prefixes += [prefix] * len(table)
    return Manifest(
        paths=tuple(paths),
        sources=sources,
        source_shards=source_shards,
        shards=tuple(shards),
        starts=np.concatenate([[0], np.cumsum([shard.num_samples for shard in shards], dtype=np.int64)]),
        offsets=_flat(tables, "offsets"),
        lengths=_flat(tables, "lengths"),
        keys=pa.concat_arrays(
            [chunk.cast(pa.large_string()) for table in tables for chunk in pc.list_flatten(table["keys"]).chunks]
        ),
        prefixes=tuple(prefixes),
    )


def _flat(tables: Sequence[pa.Table], column: str) -> np.ndarray:
    return np.concatenate([pc.list_flatten(table[column]).to_numpy() for table in tables])


def _name_prefixes(tables: Sequence[pa.Table]) -> list[str]:
    """Nothing for one manifest; for several the source where that tells them apart, else their number in the list."""
    if len(tables) == 1:
        return [""]
    sources = ["+".join(sorted(set(table["source"].to_pylist()))) for table in tables]
    if all(sources) and len(set(sources)) == len(sources):
        return [f"{source}/" for source in sources]
    return [f"{number}/" for number in range(len(tables))]
