"""Saving without stopping: the step copies to host memory; files, checksums and publication follow in a thread.

DeepSpeed's own asynchronous writer needs its compiled file engine, and publishes inside the engine's step. Here
DeepSpeed composes its files as usual, but a checkpoint engine of ours keeps copies of them; a thread of each rank
writes the copies and computes their checksums. At the end of a step the ranks agree whether all have written, and then
rank 0 publishes. So a rank that cannot write, on a full disk say, leaves no other rank waiting: only this save is lost.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointEngine
from safetensors import SafetensorError
from torch import Tensor

from albef.errors import CheckpointError
from albef.weights.tensor_file import write_tensors
from pipeline.checkpoints.layout import (
    MODEL_CONFIG,
    CheckpointMeta,
    digest,
    latest_name,
    prune_checkpoints,
    publish,
    random_state_file,
    state_file,
    step_tag,
    unpublish,
)
from pipeline.checkpoints.removal import claim
from pipeline.config.sections import CheckpointConfig
from pipeline.engine.distributed import World
from pipeline.task import Task

log = logging.getLogger(__name__)

CANNOT_WRITE = (OSError, RuntimeError, SafetensorError)
"""The errors by which the writers of Python, torch and safetensors report a full disk, a lost mount or a quota."""


@dataclass(frozen=True, kw_only=True)
class WriteResult:
    """What one rank's thread wrote."""

    files: dict[str, dict[str, Any]]
    """name -> {"bytes": int, "sha256": str}"""
    problem: str = ""
    """Why the files could not be written; empty when they were."""


@dataclass(kw_only=True)
class PendingSave:
    """A checkpoint that is being written."""

    meta: CheckpointMeta
    target: Path
    files: dict[str, Callable[[Path], None]]
    began: float
    pause_s: float
    """Seconds the step waited for the copies."""
    written: WriteResult | None = None
    """Set by the thread when it is done."""
    thread: threading.Thread = field(init=False)


@dataclass(kw_only=True)
class CheckpointSaver:
    """Saves the parts of a run. Its methods are collectives: every rank calls them, at the same step.

    Args:
        folder: the run's `checkpoints` folder, on storage all ranks share.
    """

    folder: Path
    config: CheckpointConfig
    world: World
    engine: Any
    task: Task
    failed: int = 0
    """Saves that failed so far."""
    _save: PendingSave | None = field(default=None, init=False)

    def start(self, meta: CheckpointMeta) -> None:
        """Copy everything to host memory and start to write it; an earlier save that is still being written ends first.

        Returns as soon as the copies are made. `publish_if_written` or `finish` publishes the checkpoint.
        """
        self.finish()
        began = time.monotonic()
        target = self.folder / step_tag(meta.step)
        files = self._snapshot(target.name)
        names = [name for of_rank in self.world.gather_objects(list(files)) for name in of_rank]
        # The others wait for rank 0 here: the folder may hold an earlier save of this step, a killed one too.
        problem = self.world.broadcast_object(_claim(target, names) if self.world.is_main else "")
        if problem:
            self._give_up(target, f"rank 0: {problem}")
            return
        save = PendingSave(meta=meta, target=target, files=files, began=began, pause_s=time.monotonic() - began)
        save.thread = threading.Thread(target=write, args=(save,), name=f"save-{target.name}", daemon=True)
        save.thread.start()
        self._save = save

    def publish_if_written(self) -> Path | None:
        """Publish the save if all ranks have written it; once a step. Returns the folder that was published."""
        if self._save is None or self.world.agree(self._save.written is None):
            return None
        return self.finish()

    def finish(self) -> Path | None:
        """Wait for the save that is being written, and publish it. Returns its folder; None without one or on failure.

        A save that failed on any rank is removed, warned of, and counted; `latest` still names the one before.
        """
        save = self._save
        if save is None:
            return None
        self._save = None
        waited = time.monotonic()
        save.thread.join()
        assert save.written is not None, "the thread sets this on every way out"
        parts = self.world.gather_objects(save.written)
        problems = [f"rank {rank}: {part.problem}" for rank, part in enumerate(parts) if part.problem]
        if not problems:
            files = {name: facts for part in parts for name, facts in part.files.items()}
            problem = self.world.broadcast_object(self._publish(save, files) if self.world.is_main else "")
            problems = [problem] if problem else []
        if problems:
            self._give_up(save.target, "; ".join(problems))
            return None
        now = time.monotonic()
        pause_s = save.pause_s + now - waited
        log.info("saved %s in %.1f s, training paused for %.2f s", save.target, now - save.began, pause_s)
        return save.target

    def save_now(self, meta: CheckpointMeta) -> Path:
        """Save and publish before returning: for the last step, and when a stop was requested.

        Raises: CheckpointError when it failed: the run must not end as if this step were safe.
        """
        self.start(meta)
        path = self.finish()
        if path is None:
            kept = self.world.broadcast_object(latest_name(self.folder) if self.world.is_main else None)
            raise CheckpointError(
                f"step {meta.step} could not be saved in {self.folder} (the reason is in the log)",
                f"make room there; the same command resumes from {kept or 'the first step'}",
            )
        return path

    def _snapshot(self, tag: str) -> dict[str, Callable[[Path], None]]:
        """This rank's files by name, each as a function that writes it; nothing in them changes with the next step."""
        held = InMemoryCheckpointEngine()
        original_engine, self.engine.checkpoint_engine = self.engine.checkpoint_engine, held
        self.engine._copy_recovery_script = lambda save_path: None  # a script for users of DeepSpeed's own folders
        try:
            self.engine.save_checkpoint("nowhere", tag=tag, save_latest=False)
        finally:
            self.engine.checkpoint_engine = original_engine
            del self.engine._copy_recovery_script
        files: dict[str, Callable[[Path], None]] = {name: _torch_file(state) for name, state in held.files.items()}
        files[random_state_file(self.world.rank)] = _tensor_file(random_state())
        if self.world.is_main:
            for name, tensors in self.task.state().items():
                files[state_file(name)] = _tensor_file(host_copy(dict(tensors)))
            files[MODEL_CONFIG] = _text_file(json.dumps(self.task.shape, indent=2) + "\n")
        if self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)  # the copies were only started
        return files

    def _publish(self, save: PendingSave, files: dict[str, dict[str, Any]]) -> str:
        """Rank 0: write `meta.json`, then `latest`, then remove old checkpoints. Returns what went wrong."""
        try:
            publish(save.target, dataclasses.replace(save.meta, files=dict(sorted(files.items()))))
        except OSError as error:
            return f"{type(error).__name__}: {error}"
        try:
            prune_checkpoints(self.folder, self.config)
        except CheckpointError as error:
            log.warning("no checkpoint is pruned: %s", error.message)
        return ""

    def _give_up(self, target: Path, problems: str) -> None:
        self.failed += 1
        if self.world.is_main:
            unpublish(target)
            log.warning(
                "%s could not be saved and is removed (%s); training continues, the latest checkpoint is still %s",
                *(target, problems, latest_name(self.folder) or "none"),
            )


def _claim(target: Path, files: list[str]) -> str:
    """Rank 0: make an empty folder for the checkpoint's files. Returns what went wrong."""
    try:
        claim(target, files)
    except OSError as error:
        return f"{type(error).__name__}: {error}"
    return ""


class InMemoryCheckpointEngine(CheckpointEngine):
    """A DeepSpeed checkpoint engine that writes nothing: it holds a copy of each file's content, by the file's name."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "held files"
        self.files: dict[str, Any] = {}

    def create(self, info: Any) -> None:
        """Nothing to prepare."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """No folder either: the thread that writes makes it, and reports a full disk."""

    def save(self, state_dict: Any, path: str) -> None:
        """Hold a copy of what DeepSpeed wants written."""
        self.files[Path(path).name] = host_copy(state_dict)

    def load(self, path: str, map_location: Any = None) -> Any:
        """Nothing is read (`deepspeed_engine_files.RestrictedFiles` reads)."""
        raise NotImplementedError("InMemoryCheckpointEngine only saves")

    def commit(self, info: Any) -> bool:
        """Nothing is written yet."""
        return True


def write(save: PendingSave) -> None:
    """The thread of one rank: write each file, flush it to the disk, compute its checksum, free its copy."""
    digests: dict[str, dict[str, Any]] = {}
    problem = "a bug: see the traceback above"
    try:
        save.target.mkdir(parents=True, exist_ok=True)
        while save.files:
            name, write_file = save.files.popitem()
            write_file(save.target / name)
            digests[name] = sync_and_digest(save.target / name)
        problem = ""
    except CANNOT_WRITE as error:
        problem = f"{type(error).__name__}: {error}"
    finally:
        save.written = WriteResult(files=digests, problem=problem)


def host_copy(value: Any) -> Any:
    """The same structure with every tensor copied to host memory: page-locked when it comes from CUDA, where
    the copy is only started."""
    if isinstance(value, Tensor):
        source = value.detach()
        if source.device.type == "cpu":
            return source.clone()
        return torch.empty_like(source, device="cpu", pin_memory=True).copy_(source, non_blocking=True)
    if isinstance(value, dict):
        copied = {key: host_copy(item) for key, item in value.items()}
        return OrderedDict(copied) if isinstance(value, OrderedDict) else copied
    if isinstance(value, list):
        return [host_copy(item) for item in value]
    if type(value) is tuple:
        return tuple(host_copy(item) for item in value)
    return value


def random_state() -> dict[str, Tensor]:
    """This rank's random states."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def sync_and_digest(file: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file, after it has reached the disk."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
    return {"bytes": file.stat().st_size, "sha256": digest(file)}


def _torch_file(state: Any) -> Callable[[Path], None]:
    return lambda path: torch.save(state, path)


def _tensor_file(tensors: dict[str, Tensor]) -> Callable[[Path], None]:
    return lambda path: write_tensors(path, tensors)


def _text_file(text: str) -> Callable[[Path], None]:
    def write_text(path: Path) -> None:
        path.write_text(text)

    return write_text
