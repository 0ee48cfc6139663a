"""`data.json` of a run folder: which data the run started with, so that it never resumes on other data unnoticed."""

from __future__ import annotations

import logging
import os
from typing import Any

from albef.errors import CheckpointError, ConfigError, DataError
from base import atomic_file
from base.errors import UserError
from pipeline.checkpoints.layout import has_checkpoints
from pipeline.data.corpus.protocol import Corpus
from pipeline.engine.distributed import World
from pipeline.run.folder import RunFolder
from pipeline.run.retrying_file import reason, unwritable
from samples.json_text import parse_json
from samples.plain_file import read_plain
from samples.quote import quote

log = logging.getLogger(__name__)

FILE_NAME = "data.json"
MAX_BYTES = 16 << 20
"""Largest size of data.json, which lists the manifests."""


def check_same_data(folder: RunFolder, corpus: Corpus, world: World) -> None:
    """Record the run's data, or compare the corpus with the record; a collective.

    The order of samples is a function of the corpus. Once there is a checkpoint, the paths of its files may change, but
    not what they list.

    Raises: DataError when ranks see different data; ConfigError when the run in the folder was on other data.
    """
    fingerprints = world.gather_objects(corpus.fingerprint())
    if len(set(fingerprints)) > 1:
        other = next(rank for rank, fingerprint in enumerate(fingerprints) if fingerprint != fingerprints[0])
        raise DataError(
            f"ranks 0 and {other} see different data under the same data.manifests "
            f"({fingerprints[0]} and {fingerprints[other]})",
            "do all machines mount the same folder, and is it done being copied?",
        )
    problem = world.broadcast_object(_compare(folder, corpus) if world.is_main else None)
    if problem is not None:
        raise problem


def difference(folder: RunFolder, corpus: Corpus) -> UserError | None:
    """The error if the folder has a checkpoint of a run on other data; None if the run may resume."""
    path, now = folder.path / FILE_NAME, _record_of(corpus)
    try:
        has_checkpoint = has_checkpoints(folder.checkpoints)
        before = parse_json(read_plain(path, MAX_BYTES)) if os.path.lexists(path) else None
        if has_checkpoint and before is not None and before["fingerprint"] != now["fingerprint"]:
            return ConfigError(
                f"{folder.path} holds a run on other data: {_facts(before)} then, {_facts(now)} now",
                "a run resumes only on the samples it started with, in their order: give the manifests of "
                f"{path}, or start another run with another --run-dir",
            )
        if before is not None and before["manifests"] != now["manifests"]:
            log.info("the same data is now at %s", ", ".join(corpus.paths))
    except CheckpointError as error:
        return error
    except OSError as error:
        return ConfigError(f"{path} cannot be read: {reason(error)}", "make it readable, or give another --run-dir")
    except (ValueError, KeyError, TypeError):
        return ConfigError(f"{path} is damaged", "restore it from a copy; without it the run's data is not on record")
    return None


def _compare(folder: RunFolder, corpus: Corpus) -> UserError | None:
    """Rank 0: the error for every rank to raise; or None, after writing the record."""
    if (problem := difference(folder, corpus)) is not None:
        return problem
    try:
        atomic_file.write_json(folder.path / FILE_NAME, _record_of(corpus))
    except OSError as error:
        return unwritable(folder.path, error)
    return None


def _record_of(corpus: Corpus) -> dict[str, Any]:
    return {
        "fingerprint": corpus.fingerprint(),
        "num_samples": corpus.num_samples,
        "num_shards": len(corpus.shard_sizes),
        "manifests": list(corpus.paths),
    }


def _facts(record: dict[str, Any]) -> str:
    return f"{record['num_samples']:,} samples in {record['num_shards']:,} shards ({quote(record['fingerprint'])})"
