"""The entries of annotation files as a corpus: the same order, lanes, replacements and resume as shards have.

A file is a source and one shard, so an epoch is a full permutation of all entries. The trainer reads and checks the
files once; a worker gets small records and opens the images' roots when it reads the first image.
"""

# N entries, K files

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from albef.errors import DataError
from pipeline.data.annotations.entries import Entry, Format, read_entries
from pipeline.data.annotations.images import AnnotationImages, open_images
from pipeline.data.annotations.reader import AnnotationReader, EntryRef
from pipeline.data.corpus.locations import SampleRef
from pipeline.data.corpus.splits import Split, split_of_file


@dataclass(frozen=True, kw_only=True, eq=False)
class AnnotationCorpus:
    """Entries in the order of their files; a `pipeline.data.corpus.protocol.Corpus`."""

    paths: tuple[str, ...]
    """(K,) the files."""
    images: AnnotationImages
    """Where the images are."""
    starts: np.ndarray
    """(K+1,) int64: file k holds the entries starts[k] .. starts[k+1]-1."""
    names: pa.Array
    """(N,) strings, distinct: an entry's key or its number in its file, after the file's name if there are several."""
    records: pa.Array
    """(N,) strings: the entries as JSON. Arrow's strings, because a Python object for each of a million takes GBs."""

    @property
    def sources(self) -> tuple[str, ...]:
        """The files."""
        return self.paths

    @property
    def source_shards(self) -> np.ndarray:
        """(K+1,) int64: each source is one shard."""
        return np.arange(len(self.paths) + 1)

    @property
    def num_samples(self) -> int:
        """N."""
        return int(self.starts[-1])

    @property
    def shard_sizes(self) -> np.ndarray:
        """(K,) int64 entries per file."""
        return np.diff(self.starts)

    def fingerprint(self) -> str:
        """Sixteen hex digits that stay the same while the entries, their order and their names do.

        A hash of what the task reads of each entry and of where files end; of the images only the names count.
        """
        digest = hashlib.sha256(" ".join(map(str, self.starts)).encode())
        for name, record in zip(self.names, self.records, strict=True):
            digest.update(f"\n{name} {record}".encode())
        return digest.hexdigest()[:16]

    def image_names(self, first: int = 0, end: int | None = None) -> list[list[str]]:
        """The names of each entry's images, of the entries first .. end-1."""
        return [json.loads(record)[0] for record in self.records[first:end].to_pylist()]

    def splits(self) -> list[Split]:
        """The files, each with the names of its entries' images. Raises: DataError when a file is gone."""
        bounds = zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        return [
            split_of_file(path, self.image_names(first, end))
            for path, (first, end) in zip(self.paths, bounds, strict=True)
        ]

    def locate(self, indices: np.ndarray) -> list[EntryRef]:
        """The entries at `indices` ((n,) int64), whole: they are small; with where their images lie in shards."""
        files = np.searchsorted(self.starts, indices, side="right") - 1
        wanted = pa.array(indices)
        names, records = self.names.take(wanted).to_pylist(), self.records.take(wanted).to_pylist()
        return [
            EntryRef(path=self.paths[file], name=name, record=record, samples=self._in_shards(record))
            for file, name, record in zip(files.tolist(), names, records, strict=True)
        ]

    def reader(self) -> AnnotationReader:
        """Reads the images of entries that `locate` gives."""
        return AnnotationReader(self.images.files)

    def _in_shards(self, record: str) -> tuple[SampleRef | None, ...]:
        if self.images.shards is None:
            return ()
        names, _ = json.loads(record)
        return tuple(self.images.in_shards(name) for name in names)

    def check(self) -> None:
        """Nothing: the files were checked as they were read."""

    def reading_cost(self) -> str:
        """Empty: images are read one by one."""
        return ""


def read_annotations(
    files: Sequence[str], roots: Sequence[str], form: Format, *, section: str = "data"
) -> AnnotationCorpus:
    """Read and check annotation files as one corpus.

    Args:
        files: JSON lists in `form`; their order fixes the samples' indices.
        roots: folders and zips of images, searched in order, and manifests of shards, searched before them.
        section: of the recipe that names them, for messages.

    Raises: DataError for files that cannot be used, each entry that is wrong with what is wrong with it.
    """
    if not files:
        raise DataError(f"{section}.annotations is empty", f"name JSON files, lists of {form.layout}")
    if len(set(files)) < len(files):
        twice = next(file for file in files if files.count(file) > 1)
        raise DataError(f"{twice} is named twice", f"name each file once in {section}.annotations")
    images = open_images(roots, key=f"{section}.images")
    entries = [read_entries(file, form, images) for file in files]
    prefixes = _prefixes(files)
    return AnnotationCorpus(
        paths=tuple(files),
        images=images,
        starts=np.cumsum([0, *map(len, entries)]),
        names=pa.array(
            [
                prefix + (entry.key or str(number))
                for prefix, of_file in zip(prefixes, entries, strict=True)
                for number, entry in enumerate(of_file)
            ],
            type=pa.large_string(),
        ),
        records=pa.array([record_of(entry) for of_file in entries for entry in of_file], type=pa.large_string()),
    )


def record_of(entry: Entry) -> str:
    """An entry as `EntryRef.fields` reads it."""
    return json.dumps([list(entry.images), entry.row], sort_keys=True)


def _prefixes(files: Sequence[str]) -> list[str]:
    """Empty for one file; for several their names if these are distinct, else their numbers in the list."""
    if len(files) == 1:
        return [""]
    stems = [Path(file).stem for file in files]
    return [f"{stem}/" for stem in (stems if len(set(stems)) == len(stems) else range(len(files)))]
