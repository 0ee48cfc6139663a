"""Images of evaluation sets, and the samples that look nearly like one of them, mirrored or not."""

from __future__ import annotations

import functools
import hashlib
import zipfile
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.errors import InputError
from data_prep.filters.banding import band_keys, num_key_bits, tables
from data_prep.filters.features import VERSION, ShardTask, features_path, make_features, perceptual_hashes, write_table
from data_prep.filters.near_duplicates import ranges
from data_prep.filters.perceptual_hash import NUM_BYTES, distances, hash_jpeg
from data_prep.lists.json_stream import stream_json_list
from data_prep.output.job import ImageSettings
from data_prep.output.system_files import is_system_file
from data_prep.shards.image_encoding import encode_image
from data_prep.shards.manifest import MANIFEST_NAME, stream_manifest
from data_prep.stages.local_images import open_local_images
from data_prep.workers.worker_pool import in_order
from samples.image import ImageRefused
from samples.image_roots import ImageRoots, NotRead, RootError
from samples.quote import quote

IMAGES_A_FILE = 1_000
MAX_IMAGE_BYTES = 1 << 30
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"}
LOOK_SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False), pa.field("look", pa.binary(NUM_BYTES))])


@dataclass(frozen=True)
class EvaluationSet:
    """One `--decontaminate NAME=PATH`."""

    name: str
    path: Path
    """A folder or zip of images, a manifest or the folder that holds one, or a JSON list of {"image": path}."""
    images: Path
    """The folder, or zip, to which the paths of a JSON list are relative."""


@dataclass(frozen=True)
class EvaluationImages:
    """All images of all sets, in the sets' order."""

    names: pa.Array
    """(E,) SET/IMAGE."""
    words: np.ndarray
    """(E, 4) uint64 hashes; flat images are left out."""
    num_flat: dict[str, int]
    """By set: number of flat images, which nothing is compared with."""
    digests: dict[str, str]
    """By set: SHA-256 of names and hashes."""


@dataclass(frozen=True)
class _ImagesTask:
    images: ImageRoots
    names: tuple[str, ...]
    out: Path


def hash_sets(sets: list[EvaluationSet], folder: Path, pool: Executor, processes: int) -> EvaluationImages:
    """Hash the images that have no hash in `folder` yet, and gather all. Memory: 32 bytes and a name for each image.

    Raises: InputError when an image is missing or cannot be decoded: decontamination against a part of a set would
        look like decontamination against the whole set.
    """
    names: list[pa.Array] = [pa.array([], pa.string())]
    words: list[np.ndarray] = [np.empty((0, 4), dtype="<u8")]
    num_flat, digests = {}, {}
    for one in sets:
        files = list(_files(one, folder, pool, processes))
        parts = [pq.read_table(file, columns=["key", "look"]) for file in files]
        table = pa.concat_tables(parts) if parts else LOOK_SCHEMA.empty_table()
        if not len(table):
            raise InputError(f"evaluation set {one.name} at {one.path} has no images", "give its images or its list")
        hashes, flat = perceptual_hashes(table)
        num_flat[one.name] = int(flat.sum())
        words.append(hashes[~flat])
        digests[one.name] = hashlib.sha256("\n".join(table["key"].to_pylist()).encode() + hashes.tobytes()).hexdigest()
        keys = table["key"].combine_chunks().filter(pa.array(~flat))
        names.append(pa.array([f"{one.name}/{key}" for key in keys.to_pylist()], pa.string()))
    return EvaluationImages(pa.concat_arrays(names), np.concatenate(words), num_flat, digests)


def nearest(words: np.ndarray, evaluation: Path, threshold: int) -> tuple[np.ndarray, np.ndarray]:
    """The nearest of the stored (E, 4) evaluation hashes to each of (n, 4) hashes, within the threshold.

    Returns: (n,) int64 index of the image, -1 for none, the first of several equally near; and (n,) int64 distance.
    """
    stored, index = _index(evaluation)
    none = np.int64(1) << 62
    best = np.full(len(words), none)
    for bits, keys, order in index:
        wanted = band_keys(words, bits)
        for which, position in ranges(np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")):
            image = order[position]
            apart = distances(words[which], stored[image]).astype(np.int64)
            near = apart <= threshold
            np.minimum.at(best, which[near], apart[near] << 32 | image[near])
    return np.where(best == none, -1, best & 0xFFFFFFFF), best >> 32


@functools.lru_cache(maxsize=1)
def _index(evaluation: Path) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """The hashes, and for each table its bits, the sorted keys and their images; computed once in each process."""
    stored = np.load(evaluation)
    num_bits = num_key_bits(len(stored))
    index = []
    for table in tables(num_bits):
        keys = band_keys(stored, table[:num_bits])
        order = np.argsort(keys, kind="stable")
        index.append((table[:num_bits], keys[order], order))
    return stored, index


def _files(one: EvaluationSet, folder: Path, pool: Executor, processes: int) -> Iterator[Path]:
    manifest = one.path / MANIFEST_NAME if one.path.is_dir() else one.path
    if manifest.suffix == ".parquet" and manifest.is_file():
        shards = [_shard_task(row, manifest.parent, folder) for row in stream_manifest(manifest)]
        missing = [task for task in shards if not task.out.exists()]
        list(in_order(pool, make_features, missing, ahead=2 * processes))
        yield from (task.out for task in shards)
        return
    names, images = _image_names(one)
    digest = _digest(one.name, images, names)[:16]
    tasks = []
    for start in range(0, len(names), IMAGES_A_FILE):
        out = folder / f"{one.name}-{digest}-{start:09d}.v{VERSION}.parquet"
        tasks.append(_ImagesTask(images, tuple(names[start : start + IMAGES_A_FILE]), out))
    list(in_order(pool, hash_images, [task for task in tasks if not task.out.exists()], ahead=2 * processes))
    yield from (task.out for task in tasks)


def _shard_task(row: dict[str, Any], root: Path, folder: Path) -> ShardTask:
    tar = root / row["path"]
    keys = tuple(row["keys"]) if row["keys_sha256"] else None
    out = features_path(folder, tar, row["sha256"], row["keys_sha256"])
    return ShardTask(tar, row["sha256"], row["num_samples"], keys, out)


def _image_names(one: EvaluationSet) -> tuple[list[str], ImageRoots]:
    if one.path.is_dir() or (one.path.is_file() and zipfile.is_zipfile(one.path)):
        images = open_local_images([str(one.path)])
        pictures = (name for name in images.names() if Path(name).suffix.lower() in SUFFIXES)
        return [name for name in pictures if not is_system_file(name)], images
    if not one.path.is_file():
        raise InputError(f"evaluation set {one.name}: {one.path} not found", "write --decontaminate NAME=PATH")
    names: dict[str, None] = {}
    for number, entry in enumerate(stream_json_list(one.path)):
        listed = (entry.get("image") or entry.get("images")) if isinstance(entry, dict) else None
        listed = [listed] if isinstance(listed, str) else listed
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise InputError(
                f"{one.path}: entry {number} names no image", 'each entry should be {"image": path, ...}, or "images"'
            )
        names.update(dict.fromkeys(listed))
    images = open_local_images([str(one.images)])
    missing = [name for name in names if not images.has(name)]
    if missing:
        raise InputError(
            f"{one.path}: {len(missing)} of {len(names)} images are not below {one.images}, {quote(missing[0])} first",
            f"give the folder to which their paths are relative: --images {one.name}=ROOT",
        )
    return list(names), images


def _digest(name: str, images: ImageRoots, names: list[str]) -> str:
    """A digest of the files as they are now; it changes with the size or time of one of them."""
    digest = hashlib.sha256(name.encode())
    for image in names:
        digest.update(f"\n{image}\0{images.stamp(image)}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def hash_images(task: _ImagesTask) -> int:
    """Hash local images, encoded like a sample first; returns their number."""
    rows = []
    for name in task.names:
        try:
            encoded = encode_image(task.images.read(name, MAX_IMAGE_BYTES), ImageSettings())
        except (ImageRefused, NotRead, RootError) as refused:
            raise InputError(
                f"evaluation image {task.images.roots[0] / quote(name)}: {refused}",
                "copy it again, or take it out of the evaluation set",
            ) from refused
        look = hash_jpeg(encoded.jpeg)
        rows.append({"key": name, "look": None if look is None else look.tobytes()})
    write_table(pa.Table.from_pylist(rows, schema=LOOK_SCHEMA), task.out)
    return len(rows)
