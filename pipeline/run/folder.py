"""The run folder: the paths of everything a run writes, and whether a recipe may resume in it.

runs/NAME/ holds config.yaml, ds_config.json, env.json, metrics.jsonl, tensorboard/, logs/JOB/rank_R.log, checkpoints/,
lock, skipped/ if a step was skipped, and profile/ if a recipe asks for a trace.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from albef.errors import CheckpointError, ConfigError
from base import atomic_file
from base.errors import UserError
from pipeline.checkpoints.layout import has_checkpoints
from pipeline.config.resolve import differences, load_config
from pipeline.config.run_config import RunConfig, to_yaml
from pipeline.engine.distributed import World
from pipeline.run import logs
from pipeline.run.retrying_file import unwritable
from samples.quote import quote

log = logging.getLogger(__name__)

FIXED = (
    "task",
    "model.",
    "batch.",
    "seed",
    "objective.queue_size",
    "optim.decay_groups",
    "data.weights",
    "data.shuffle_window_shards",
)
"""Keys, or beginnings of keys, that cannot change once a run has a checkpoint: shapes, and the order of the data.

Of `model.`, those of HOW may change. So may data.manifests, because data moves: `data_fingerprint.check_same_data`
checks that it is the same data."""

HOW = ("model.activation_checkpointing", "model.compile", "model.kernels")
"""Keys beside the model's shape that say how it is computed: the same formulas."""

RESOLVED = ", resolved; runs again as it is"
"""How the first line of a run's config.yaml ends."""

PACKAGES = ("torch", "deepspeed", "timm", "transformers", "numpy", "pillow", "pyarrow", "webdataset", "safetensors")
"""Packages whose versions env.json records."""


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """Paths of a run folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved recipe, which is itself a recipe."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON object per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def profile(self) -> Path:
        """Traces of steps, if `logging.profile` asks for one."""
        return self.path / "profile"

    @property
    def checkpoints(self) -> Path:
        """`step_*` folders and `latest`."""
        return self.path / "checkpoints"

    @property
    def skipped(self) -> Path:
        """A folder for every step that was skipped (pipeline/watch/skipped_steps.py)."""
        return self.path / "skipped"

    @property
    def stop_file(self) -> Path:
        """While this file exists, the run saves and stops."""
        return self.path / "stop"

    def log_file(self, job: str, rank: int) -> Path:
        """This rank's log of one start."""
        return self.path / "logs" / job / f"rank_{rank}.log"

    @classmethod
    def open(cls, run_dir: Path, run: RunConfig, ds_config: dict[str, Any], world: World) -> RunFolder:
        """Create the folder, or open an existing one; a collective.

        Logs the differences from the folder's earlier recipe. Rank 0 writes config.yaml, ds_config.json and env.json,
        and every rank copies its log to its own file from here on.

        Raises: ConfigError when the folder cannot be written, or holds checkpoints that this recipe cannot resume from.
        """
        folder = cls(path=run_dir)
        lines = world.broadcast_object(_prepare(folder, run, ds_config, world) if world.is_main else None)
        if isinstance(lines, UserError):
            raise lines
        problems = world.gather_objects(_add_log(folder, world))
        if problem := next(filter(None, problems), None):
            raise problem
        log.info("run folder %s, rank %d of %d on %s", run_dir, world.rank, world.size, world.device)
        for line in lines or []:
            log.info("%s", line)
        return folder

    def check_resume(self, resume: str, found: bool) -> None:
        """Check `--resume` against whether there is a checkpoint to resume from.

        Raises: CheckpointError for `must` without one, ConfigError for `never` with one.
        """
        if resume == "must" and not found:
            raise CheckpointError(
                f"--resume must: there is no whole checkpoint in {self.checkpoints}",
                "use --resume auto to start at the first step, or give the --run-dir of the run to resume",
            )
        if resume == "never" and found:
            raise ConfigError(
                f"--resume never: {self.path} holds a run already", "give another --run-dir, or remove that folder"
            )


def _prepare(folder: RunFolder, run: RunConfig, ds_config: dict[str, Any], world: World) -> list[str] | UserError:
    """Rank 0: check what is there, then write. Returns lines to log, or the error for every rank to raise."""
    try:
        check_ours(folder)
        folder.checkpoints.mkdir(parents=True, exist_ok=True)
        lines = compare_with_previous(folder, run)
        if folder.stop_file.exists():
            folder.stop_file.unlink()  # it stopped the run before this one
            lines.append(f"removed {folder.stop_file}, which had stopped the run")
        atomic_file.write_text(folder.config, f"# {run.name}{RESOLVED}\n" + to_yaml(run))
        atomic_file.write_json(folder.path / "ds_config.json", ds_config)
        atomic_file.write_json(folder.path / "env.json", environment(world))
    except OSError as error:
        return unwritable(folder.path, error)
    except UserError as error:
        return error
    return lines


def check_ours(folder: RunFolder) -> None:
    """Raise a ConfigError if a run would replace files that no run wrote, such as a person's recipe named config.yaml.

    A folder is a run's if its config.yaml has the first line that runs write, or a checkpoint was finished in it.
    """
    try:
        with folder.config.open("rb") as file:
            ours = file.readline(1_000).decode().rstrip().endswith(RESOLVED)
    except (OSError, ValueError):
        ours = False
    replaced = (folder.config, folder.path / "ds_config.json", folder.path / "env.json", folder.metrics)
    foreign = [path for path in replaced if os.path.lexists(path)]
    if foreign and not ours and not has_checkpoints(folder.checkpoints):
        raise ConfigError(
            f"{folder.path} is not the folder of a run, and holds {foreign[0].name}, which the run would replace",
            "give another --run-dir, or move that file elsewhere",
        )


def _add_log(folder: RunFolder, world: World) -> ConfigError | None:
    """Open this rank's log file. Returns the error for every rank to raise."""
    try:
        logs.add_file(folder.log_file(logs.job_name(os.environ), world.rank))
    except OSError as error:
        return unwritable(folder.path, error)
    return None


def compare_with_previous(folder: RunFolder, run: RunConfig) -> list[str]:
    """The differences between the recipe and the one in the folder, as lines to log.

    Raises: ConfigError when there is a checkpoint and a key of FIXED changed.
    """
    if not folder.config.is_file():
        return []
    changed = differences(load_config(folder.config), run)
    has_checkpoint = has_checkpoints(folder.checkpoints)
    fixed = {name: pair for name, pair in changed.items() if name.startswith(FIXED) and name not in HOW}
    if not has_checkpoint:
        fixed = {}
    if fixed:
        listed = "; ".join(f"{name} was {quote(old)}, is {quote(new)}" for name, (old, new) in fixed.items())
        raise ConfigError(
            f"{folder.path} holds a run that cannot resume with this recipe: {listed}",
            f"resume it unchanged with `python -m pipeline {run.command} {folder.config} --run-dir {folder.path}`, "
            "or start another run with another --run-dir",
        )
    return [f"recipe change: {name} was {quote(old)}, is {quote(new)}" for name, (old, new) in changed.items()]


def environment(world: World) -> dict[str, Any]:
    """What env.json holds: an allow-list, never the process's environment."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": package_versions(),
        "world_size": world.size,
        "device": _device_name(world),
        "host": platform.node(),
        "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
        "slurm_restart_count": os.environ.get("SLURM_RESTART_COUNT"),
    }


def package_versions() -> dict[str, str | None]:
    """Versions of the packages that the numbers depend on; None for one that is not installed."""
    return {name: _version(name) for name in PACKAGES}


def _device_name(world: World) -> str:
    if world.device.type != "cuda":
        return world.device.type
    return torch.cuda.get_device_name(world.device)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*arguments: str) -> str | None:
    """Git's output for the checkout that holds this code; None without git, or outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
