"""`training_data.json` of a run, and of the model folder it is exported to: the splits that it was trained on.

Starting weights bring the splits of their own folder along. `evaluate` compares its data with them, because a score on
what a model was trained on looks like any other.
"""

# E entries, n image names

from __future__ import annotations

import base64
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from albef.errors import CheckpointError
from albef.json_file import read_object
from albef.weights.model_folder import TRAINING_DATA
from base import atomic_file
from base.errors import UserError
from pipeline.config.run_config import RunConfig
from pipeline.data.corpus.protocol import Corpus
from pipeline.data.corpus.splits import Split, name_hashes
from pipeline.engine.distributed import World
from pipeline.run.folder import RunFolder
from pipeline.run.retrying_file import unwritable
from samples.quote import quote

log = logging.getLogger(__name__)

HINT = f"restore {TRAINING_DATA} from a copy, or remove it: what the model was trained on is then unknown"


def record_training_data(folder: RunFolder, run: RunConfig, corpus: Corpus, world: World) -> None:
    """Write what the run trains on, after what its starting weights were trained on; a collective.

    Raises: ConfigError when it cannot be written; DataError for data, CheckpointError for a record, that cannot be
        read.
    """
    problem = world.broadcast_object(_write(folder, run, corpus) if world.is_main else None)
    if problem is not None:
        raise problem


def _write(folder: RunFolder, run: RunConfig, corpus: Corpus) -> UserError | None:
    """Rank 0: the error for every rank to raise; or None."""
    try:
        record = _record_of_start(getattr(run.init, "model", None))  # pretraining starts from separate encoders
        record["splits"] += [_as_json(run.task, split) for split in corpus.splits()]
        atomic_file.write_json(folder.path / TRAINING_DATA, record)
    except UserError as error:
        return error
    except OSError as error:
        return unwritable(folder.path, error)
    return None


def _record_of_start(source: str | None) -> dict[str, Any]:
    if source is None:
        return {"splits": [], "unrecorded": []}
    file = Path(source) / TRAINING_DATA
    if not file.is_file():
        return {"splits": [], "unrecorded": [Path(source).name]}
    record = read_object(file, hint=HINT)
    splits_of(record)
    return {"splits": list(record["splits"]), "unrecorded": list(record["unrecorded"])}


def record_beside(checkpoint: Path) -> dict[str, Any] | None:
    """The record of the run that a checkpoint's folder lies in; None, with a warning, where there is none.

    Raises: CheckpointError when it cannot be read.
    """
    file = checkpoint.resolve().parent.parent / TRAINING_DATA
    if file.is_file():
        return read_object(file, hint=HINT)
    log.warning("there is no %s: the exported model will not name what it was trained on", file)
    return None


def splits_of(record: Mapping[str, Any]) -> list[tuple[str, Split]]:
    """The splits of a record, each with the task that it was for. Raises: CheckpointError for a damaged one."""
    try:
        if not all(isinstance(name, str) for name in record["unrecorded"]):
            raise TypeError("unrecorded holds something other than names")
        return [_from_json(values) for values in record["splits"]]
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{TRAINING_DATA} cannot be read: {quote(error)}", HINT) from None


def compare_with_training(
    record: Mapping[str, Any] | None, data: Sequence[Split], images: Sequence[Sequence[str]], world: World
) -> dict[str, Any] | None:
    """Whether a model is evaluated on what it was trained on; rank 0 logs a warning for every such split.

    Args:
        record: of the model's folder; None where it has none.
        data: the evaluation's files.
        images: (E,) the names of each entry's images; empty where names are not known.

    Returns: for the result's file; None without a record. `entries_seen` counts entries with an image of a training
        split. Each split has `same_file`, whether the evaluation is of the same file, and its own `entries_seen`.
        Counts are None where images have no names. `unrecorded` names starting weights without a record.

    Raises: CheckpointError for a damaged record.
    """
    if record is None:
        if world.is_main:
            log.info("the model's folder has no %s: it may have been trained on this data", TRAINING_DATA)
        return None
    files = {split.sha256 for split in data}
    entries = np.repeat(np.arange(len(images)), [len(names) for names in images])
    hashes = name_hashes(name for names in images for name in names)
    in_any = np.zeros(len(images), dtype=bool)
    splits = []
    for task, split in splits_of(record):
        seen = None
        if split.images is not None and len(images):
            hit = np.unique(entries[np.isin(hashes, split.images)])
            in_any[hit] = True
            seen = len(hit)
        facts = {"task": task, "name": split.name, "num_entries": split.num_entries}
        splits.append(facts | {"same_file": split.sha256 in files, "entries_seen": seen})
    if world.is_main:
        _warn(splits, record["unrecorded"], len(images))
    seen_in_all = int(in_any.sum()) if len(images) else None
    return {"entries_seen": seen_in_all, "splits": splits, "unrecorded": list(record["unrecorded"])}


def _warn(splits: Sequence[Mapping[str, Any]], unrecorded: Sequence[str], num_entries: int) -> None:
    for split in splits:
        name, task, seen = quote(split["name"]), quote(split["task"]), split["entries_seen"]
        if split["same_file"]:
            log.warning("the model was trained on this very file, %s (%s): a score on it shows memory", name, task)
        elif seen:
            log.warning(
                "%d of %d entries have an image that the model was trained on (%s, %s)", seen, num_entries, name, task
            )
    for source in unrecorded:
        log.info("what %s, where the model started, was trained on is not recorded", quote(source))


def _as_json(task: str, split: Split) -> dict[str, Any]:
    images = None if split.images is None else base64.b64encode(split.images.astype("<u8").tobytes()).decode()
    return {
        "task": task,
        "name": split.name,
        "sha256": split.sha256,
        "num_entries": split.num_entries,
        "images": images,
    }


def _from_json(values: Mapping[str, Any]) -> tuple[str, Split]:
    """Raises: LookupError, TypeError or ValueError for what no run wrote."""
    images = values["images"]
    for name, kind in (("task", str), ("name", str), ("sha256", str), ("num_entries", int)):
        if not isinstance(values[name], kind):
            raise TypeError(f"{name} is {values[name]!r}")
    return values["task"], Split(
        name=values["name"],
        sha256=values["sha256"],
        num_entries=values["num_entries"],
        images=None if images is None else np.frombuffer(base64.b64decode(images, validate=True), dtype="<u8"),
    )
