"""Checkpoints: save, publish, find, verify, load, prune.

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
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from albef.config import AlbefConfig
from albef.errors import CheckpointError
from albef.momentum import MomentumTeacher
from albef.objective import ObjectiveConfig
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


def save_checkpoint(
    folder: Path,
    engine: Any,
    teacher: MomentumTeacher,
    queue: FeatureQueue,
    *,
    world: World,
    meta: CheckpointMeta,
) -> Path:
    """Save on all ranks, then publish: the files, a barrier, `meta.json`, then `latest` by an atomic rename.

    Args:
        folder: the run's `checkpoints` folder, on storage all ranks share.
        engine: the DeepSpeed engine; every rank calls this, at the same step.
        meta: what to record; `files` is filled in here.

    Returns: the checkpoint's folder.
    Raises: OSError when a file cannot be written; `latest` then still names the previous checkpoint.
    """
    tag = step_tag(meta.step)
    target = folder / tag
    if world.is_main and target.exists():  # left by a killed save of this very step, or being taken again
        shutil.rmtree(target)
    world.barrier()
    engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
    _save_random_state(target, world.rank)
    if world.is_main:
        save_file(_ready(teacher.state_dict()), target / "teacher.safetensors")
        save_file(_ready(queue.state_dict()), target / "queue.safetensors")
        shape = {"model": engine.module.config.to_dict(), "objective": dataclasses.asdict(engine.module.objective)}
        (target / "model_config.json").write_text(json.dumps(shape, indent=2) + "\n")
    world.barrier()
    names = sorted(path.name for path in target.iterdir() if path.is_file())
    mine = {name: _sync_and_digest(target / name) for name in names[world.rank :: world.size]}
    files = {name: facts for part in world.gather_objects(mine) for name, facts in part.items()}
    if world.is_main:
        published = dataclasses.replace(meta, files=dict(sorted(files.items())))
        _write_atomically(target / META, json.dumps(dataclasses.asdict(published), indent=2) + "\n")
        _write_atomically(folder / LATEST, tag)
    world.barrier()
    return target


def new_meta(**facts: Any) -> CheckpointMeta:
    """A CheckpointMeta of now, whose files `save_checkpoint` fills in."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return CheckpointMeta(format=FORMAT, created=created, files={}, **facts)


def find_checkpoint(folder: Path) -> tuple[Path, CheckpointMeta] | None:
    """The checkpoint to go on from: the one `latest` names, else the newest that is whole; None when there is none.

    A checkpoint that is incomplete or whose files do not match their checksums is passed over with a warning.

    Raises: CheckpointError when checkpoints were published but none is whole: beginning anew would bury them.
    """
    names = [path.name for path in sorted(folder.glob("step_*"), reverse=True) if path.is_dir()]
    pointer = folder / LATEST
    if pointer.is_file() and (named := pointer.read_text().strip()) in names:
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
        if _digest(file) != facts["sha256"]:
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
    """Bring engine, teacher, queue and random state to where `save_checkpoint` left them, on every rank.

    Raises: CheckpointError when the checkpoint was saved under another world size, ZeRO stage or precision.
    """
    now = {"world_size": world.size, "zero_stage": zero_stage, "precision": precision}
    for name, value in now.items():
        if (saved := getattr(meta, name)) != value:
            raise CheckpointError(
                f"{path} was saved with {name} {saved}, this run has {value}",
                f"start the run with {name} {saved}, or export the checkpoint and begin a new run from it",
            )
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
    """Remove what retention does not keep; never the one `latest` names. Rank 0 only. Returns the removed names."""
    finished = sorted(path for path in folder.glob("step_*") if (path / META).is_file())
    pointed = (folder / LATEST).read_text().strip() if (folder / LATEST).is_file() else ""
    keep = {path.name for path in finished[-max(1, config.keep_last) :]} | {pointed}
    removed = []
    for path in finished:
        step = int(path.name.removeprefix("step_"))
        if path.name in keep or (config.keep_every and step % config.keep_every == 0):
            continue
        (path / META).unlink()  # first, so that a half-removed folder is never taken for a checkpoint
        shutil.rmtree(path)
        removed.append(path.name)
    return removed


def _ready(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """On the CPU and contiguous, as safetensors wants them; plain numbers (the queue's pointer) become tensors."""
    return {name: torch.as_tensor(value).detach().cpu().contiguous() for name, value in state.items()}


def _save_random_state(target: Path, rank: int) -> None:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    save_file(state, target / f"random_rank_{rank:05d}.safetensors")


def _load_random_state(path: Path, rank: int) -> None:
    state = load_file(path / f"random_rank_{rank:05d}.safetensors")
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _sync_and_digest(file: Path) -> dict[str, Any]:
    with file.open("rb") as handle:
        os.fsync(handle.fileno())  # the checksum must describe what is on the disk, not what is on its way
    return {"bytes": file.stat().st_size, "sha256": _digest(file)}


def _digest(file: Path) -> str:
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
