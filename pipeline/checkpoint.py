"""Checkpoints: publish, find, verify, load, prune. What writes the files is `pipeline.saving`.

A checkpoint is DeepSpeed's own folder `checkpoints/step_00001000/` with our files beside its own: the teacher, the
queue, each rank's random state, the model's shape, and `meta.json`, written last, with the size and SHA-256 of every
file. A folder without a `meta.json` was never finished and is never read. `checkpoints/latest` names the newest one and
is replaced by an atomic rename, so that at any instant there is a good checkpoint to go on from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.config import AlbefConfig
from albef.errors import CheckpointError
from albef.objective import ObjectiveConfig
from pipeline import atomic_file

if TYPE_CHECKING:  # the configuration imports this file, and must not wait for the model's libraries
    from albef.momentum import MomentumTeacher
    from albef.queue import FeatureQueue
    from pipeline.distributed import World

log = logging.getLogger(__name__)

FORMAT = 1
META = "meta.json"
LATEST = "latest"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """When to save and what to keep."""

    save_every: int = 1_000
    """Save every so many optimizer steps; the last step and a told stop are always saved."""
    keep_last: int = 2
    """Keep this many of the newest checkpoints."""
    keep_every: int = 0
    """Keep checkpoints whose step is a multiple of this for good; 0 keeps none beyond keep_last."""
    asynchronous: bool = True
    """Write in the background: training pauses only for the copy to host memory, which needs room there for what this
    rank saves. The last step and a told stop are always waited for."""


@dataclass(frozen=True, kw_only=True)
class CheckpointMeta:
    """What `meta.json` says of a checkpoint."""

    format: int
    run_name: str
    step: int
    """Optimizer steps taken."""
    epoch: int
    samples_seen: int
    world_size: int
    zero_stage: int
    precision: str
    config_hash: str
    created: str
    """UTC, ISO 8601."""
    files: dict[str, dict[str, Any]]
    """name -> {"bytes": int, "sha256": str}, every file of the folder but meta.json itself."""


def step_tag(step: int) -> str:
    """The folder name of a step's checkpoint: `step_00001000`."""
    return f"step_{step:08d}"


def publish(target: Path, meta: CheckpointMeta) -> None:
    """Make a fully written checkpoint one to go on from: `meta.json`, then `latest`, each by an atomic rename.

    Args:
        target: the checkpoint's folder, every file of it on the disk.
        meta: with the size and digest of every file.

    Raises: OSError when they cannot be written; `latest` then names what it named.
    """
    atomic_file.write_json(target / META, dataclasses.asdict(meta))
    atomic_file.write_text(target.parent / LATEST, target.name)


def unpublish(target: Path) -> None:
    """Remove a checkpoint's folder, if there is one; `meta.json` first, so that half of it is never taken for one."""
    (target / META).unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)


def latest_name(folder: Path) -> str | None:
    """The checkpoint that `latest` names."""
    pointer = folder / LATEST
    return pointer.read_text().strip() if pointer.is_file() else None


def new_meta(**facts: Any) -> CheckpointMeta:
    """A CheckpointMeta of now, whose files are filled in when they are written."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return CheckpointMeta(format=FORMAT, created=created, files={}, **facts)


def find_checkpoint(folder: Path) -> tuple[Path, CheckpointMeta] | None:
    """The checkpoint to go on from: the one `latest` names, else the newest that is whole; None when there is none.

    A checkpoint that is incomplete or whose files do not match their checksums is passed over with a warning.

    Raises: CheckpointError when checkpoints were published but none is whole: beginning anew would bury them.
    """
    names = [path.name for path in sorted(folder.glob("step_*"), reverse=True) if path.is_dir()]
    if (named := latest_name(folder)) in names:
        names.remove(named)
        names.insert(0, named)
    faults: list[str] = []
    for name in names:
        try:
            meta = verify_checkpoint(folder / name)
        except CheckpointError as error:
            log.warning("checkpoint %s cannot be used: %s", name, error.message)
            faults.append(error.message)
            continue
        if faults:
            log.warning("going on from %s, the newest whole checkpoint", name)
        return folder / name, meta
    if published := [name for name in names if (folder / name / META).exists()]:
        raise CheckpointError(
            f"none of the {len(published)} checkpoints in {folder} can be used: {faults[-1]}",
            "restore the files, or begin again with another --run-dir",
        )
    return None


def read_meta(path: Path) -> CheckpointMeta:
    """The `meta.json` of a checkpoint folder.

    Raises: CheckpointError when it is missing (the save was never finished), unreadable or of a newer format.
    """
    try:
        values = json.loads((path / META).read_text())
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is not a finished checkpoint: it has no {META}",
            "name a step_* folder that has one, or the run folder to take the newest whole checkpoint",
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path / META} cannot be read: {error}", "use another checkpoint of the run") from None
    fields = {field.name for field in dataclasses.fields(CheckpointMeta)}
    if not isinstance(values, dict) or set(values) != fields or values["format"] != FORMAT:
        raise CheckpointError(
            f"{path / META} is not a meta.json of format {FORMAT}",
            "it was written by another version of this pipeline; use that version, or another checkpoint",
        )
    return CheckpointMeta(**values)


def verify_checkpoint(path: Path) -> CheckpointMeta:
    """Check size and SHA-256 of every file against `meta.json`.

    Raises: CheckpointError naming the first file that is missing, truncated or changed.
    """
    meta = read_meta(path)
    for name, facts in meta.files.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing", "use another checkpoint of the run")
        if (size := file.stat().st_size) != facts["bytes"]:
            raise CheckpointError(
                f"{file} has {size} bytes, {facts['bytes']} were saved", "use another checkpoint of the run"
            )
        if digest(file) != facts["sha256"]:
            raise CheckpointError(f"{file} has changed since it was saved", "use another checkpoint of the run")
    return meta


def load_checkpoint(
    path: Path,
    meta: CheckpointMeta,
    engine: Any,
    teacher: MomentumTeacher,
    queue: FeatureQueue,
    *,
    world: World,
    zero_stage: int,
    precision: str,
) -> None:
    """Bring engine, teacher, queue and random state to where the save left them, on every rank.

    The layout that saved is loaded by DeepSpeed itself. Any other number of ranks, ZeRO stage or precision takes the
    same weights and moments piece by piece (`pipeline.elastic`).

    Raises: CheckpointError when the files cannot be loaded.
    """
    from safetensors.torch import load_file

    now = {"world_size": world.size, "zero_stage": zero_stage, "precision": precision}
    changed = [f"{name} {old} -> {value}" for name, value in now.items() if (old := getattr(meta, name)) != value]
    if changed:
        from pipeline.elastic import load_into_engine

        log.info("%s was saved under another layout: %s", path, ", ".join(changed))
        load_into_engine(engine, path, meta)
    else:
        loaded, _ = engine.load_checkpoint(str(path.parent), tag=path.name)
        if loaded is None:
            raise CheckpointError(f"DeepSpeed cannot load {path}", "use another checkpoint of the run")
    teacher.load_state_dict(load_file(path / "teacher.safetensors"))
    queue.load_state_dict(dict(load_file(path / "queue.safetensors")))
    _load_random_state(path, world.rank)


def read_model_config(path: Path) -> tuple[AlbefConfig, ObjectiveConfig]:
    """The model's shape and objective, as saved beside the weights."""
    try:
        values = json.loads((path / "model_config.json").read_text())
        return AlbefConfig.from_dict(values["model"]), ObjectiveConfig(**values["objective"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path / 'model_config.json'} cannot be read: {error}", "use another checkpoint of the run"
        ) from None


def prune_checkpoints(folder: Path, config: CheckpointConfig) -> list[str]:
    """Remove what retention does not keep; never the one `latest` names. Rank 0 only. Returns the removed names.

    Checkpoints of later steps than `latest` names were passed over as damaged when the run went on from an older one.
    They neither count nor go: the run replaces each when it comes to its step.
    """
    pointed = latest_name(folder)
    if pointed is None:
        return []
    finished = sorted(path for path in folder.glob("step_*") if (path / META).is_file() and path.name <= pointed)
    keep = {path.name for path in finished[-max(1, config.keep_last) :]} | {pointed}
    removed = []
    for path in finished:
        step = int(path.name.removeprefix("step_"))
        if path.name in keep or (config.keep_every and step % config.keep_every == 0):
            continue
        unpublish(path)
        removed.append(path.name)
    return removed


def _load_random_state(path: Path, rank: int) -> None:
    """Nothing in a step draws from it (the draws are named by seed, epoch, step and lane); a new rank keeps its own."""
    import torch
    from safetensors.torch import load_file

    file = path / f"random_rank_{rank:05d}.safetensors"
    if not file.is_file():
        return
    state = load_file(file)
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def digest(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
