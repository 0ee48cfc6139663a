"""Packs made pictures into verified folders, and filters them in this process."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_prep.filters.corpus import Corpus, exclusive
from data_prep.filters.evaluation_sets import EvaluationSet
from data_prep.filters.filtering import Filtered, filter_corpus
from data_prep.filters.settings import FilterSettings
from data_prep.lists.row_list import ListedImage
from data_prep.output.job import Folder, ImageSettings, Job, write_job
from data_prep.shards.manifest import read_manifest
from data_prep.shards.writer import FetchResult, write_shard
from data_prep.stages.verify import verify_folder
from tests.support.shards import jpeg

Entry = tuple[Image.Image, str | list[str]]


def detailed(number: int, width: int, height: int) -> Image.Image:
    """A distinct picture with as much detail as a photograph has: `picture` is too soft to recognise copies by."""
    coarse = np.random.default_rng(number).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def pack(folder: Path, source: str, entries: Sequence[Entry], *, shard_size: int = 4, image_size: int = 96) -> Path:
    """A folder of shards as `data_prep pack` makes and verifies them; entry i has the key SOURCE-i."""
    out = Folder(folder / source)
    for path in (out.shards, out.failures, out.work):
        path.mkdir(parents=True)
    job = Job(
        kind="pack",
        source=source,
        inputs_sha256="0" * 64,
        shard_size=shard_size,
        images=ImageSettings(image_size=image_size),
        num_rows=len(entries),
    )
    write_job(out, job)
    for index in range(job.num_shards):
        part = dict(enumerate(entries[index * shard_size : (index + 1) * shard_size], start=index * shard_size))
        listed = {
            row: ListedImage(f"{row}.jpg", [caption] if isinstance(caption, str) else caption)
            for row, (_, caption) in part.items()
        }
        results = [FetchResult(row, jpeg(image, 95), None) for row, (image, _) in part.items()]
        write_shard(out, job, index, listed, results, {"command": "pack"})
    with ThreadPoolExecutor(1) as pool:
        assert not verify_folder(out.root, pool, 1, fraction=0).problems
    return out.root


def filter_here(
    out: Path,
    folders: Sequence[Path],
    settings: FilterSettings | None = None,
    sets: Sequence[EvaluationSet] = (),
    *,
    processes: int = 1,
    dry_run: bool = False,
    features: Path | None = None,
) -> Filtered:
    """What `data_prep filter` does, with threads for workers."""
    settings = settings or FilterSettings()
    corpus = Corpus(out)
    with exclusive(corpus), ThreadPoolExecutor(processes) as pool:
        return filter_corpus(corpus, folders, settings, sets, pool, processes, dry_run=dry_run, features=features)


def removed(corpus: Path) -> dict[str, dict[str, Any]]:
    """The lines of removed/ by key."""
    lines = [line for path in sorted((corpus / "removed").iterdir()) for line in path.read_text().splitlines()]
    by_key = {entry["key"]: entry for entry in map(json.loads, lines)}
    assert len(by_key) == len(lines), "no sample is removed twice"
    return by_key


def kept(corpus: Path) -> list[str]:
    """The keys that the manifest names, in its order."""
    return [key for row in read_manifest(corpus / "manifest.parquet") for key in row["keys"]]


def contents(corpus: Path) -> dict[str, bytes]:
    """Every file of the outcome but the datasheet, which has the time of writing."""
    files = [corpus / "manifest.parquet", corpus / "corpus.json", *sorted((corpus / "removed").iterdir())]
    return {str(path.relative_to(corpus)): path.read_bytes() for path in files}
