"""Images of annotations in tar shards: found by a sample's key or, where the shards are on a disk, by its URL."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from albef.errors import DataError
from pipeline.data.corpus import stores
from pipeline.data.corpus.locations import SampleRef
from pipeline.data.corpus.manifest import FILE_NAME, Manifest, read_manifest
from samples.json_text import parse_json
from samples.quote import quote
from samples.shard import MAX_RECORD_BYTES
from samples.tar import BLOCK, TarDamage, padded, parse_header


def names_shards(root: str | Path) -> bool:
    """Whether a root of images is a manifest of shards, or a folder that holds one, and not a folder or zip of images.

    A URL is.
    """
    name = str(root)
    return stores.is_url(name) or name.endswith(".parquet") or os.path.isfile(os.path.join(name, FILE_NAME))


class ShardImages:
    """The images of manifests by name; of a name that several samples have, the first.

    It holds all keys and, once a name is no key, all URLs: about a hundred bytes each. Workers get the locations that
    it finds, and not this.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    @classmethod
    def of_roots(cls, roots: Sequence[str]) -> ShardImages:
        """The samples of manifests, or of folders that hold one. Raises: DataError."""
        return cls(read_manifest(roots))

    def find(self, name: str) -> SampleRef | None:
        """The sample whose key is `name`, with or without .jpg, or whose record has it as `url`.

        Raises: DataError when a record cannot be read.
        """
        index = self._keys.get(name, self._keys.get(name.removesuffix(".jpg")))
        if index is None:
            index = self._urls.get(name)
        return None if index is None else self._manifest.sample(index)

    @functools.cached_property
    def _keys(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for shard, first in enumerate(self._manifest.starts[:-1].tolist()):
            for place, key in enumerate(self._manifest.rows(shard).keys.to_pylist()):
                found.setdefault(key, first + place)
        return found

    @functools.cached_property
    def _urls(self) -> dict[str, int]:
        """Two small reads a sample; empty of shards in a store, where each would be a request."""
        found: dict[str, int] = {}
        for number, (shard, first) in enumerate(
            zip(self._manifest.shards, self._manifest.starts[:-1].tolist(), strict=True)
        ):
            if stores.is_url(shard.path):
                continue
            rows = self._manifest.rows(number)
            try:
                with open(shard.path, "rb") as file:
                    for place, (offset, length) in enumerate(zip(rows.offsets, rows.lengths, strict=True)):
                        found.setdefault(_url_of(file.fileno(), int(offset), int(length)), first + place)
            except (OSError, TarDamage, ValueError) as error:
                raise DataError(
                    f"{quote(shard.path)}: a sample's record cannot be read: {quote(error)}",
                    "`python -m data_prep verify DIR` lists what is wrong with its shards",
                ) from error
        return found


def _url_of(file: int, offset: int, length: int) -> str:
    """The `url` of the record of one sample, whose members are at [offset, offset + length). Raises: ValueError,
    TarDamage, OSError."""
    image = parse_header(os.pread(file, BLOCK, offset), offset)
    start = BLOCK + padded(image.size)
    if not 0 < length - start <= MAX_RECORD_BYTES + 2 * BLOCK:
        raise ValueError(f"no record behind {quote(image.name)}")
    data = os.pread(file, length - start, offset + start)
    record = parse_json(data[BLOCK : BLOCK + parse_header(data[:BLOCK], offset + start).size])
    url = record.get("url") if isinstance(record, dict) else None
    if not isinstance(url, str):
        raise ValueError(f"the record of {quote(image.name)} has no url")
    return url
