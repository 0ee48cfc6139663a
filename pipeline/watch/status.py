"""`pipeline status RUN`: how far a run is, from the files of its folder alone.

Queries no scheduler and no process, and imports neither torch nor DeepSpeed: quick on a login node, also for a run on
another machine, and while the run writes. The folder does not show whether the job still runs, so `status` does not
guess; it prints the time since the run last wrote something.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from albef.errors import CheckpointError, ConfigError
from base.progress import duration
from pipeline.checkpoints.layout import step_of, survey_checkpoints
from pipeline.config.recipe import read_recipe
from pipeline.config.recipe_yaml import Plain
from pipeline.run.logs import print_answer
from pipeline.run.metrics_file import newest_first
from samples.json_text import parse_json
from samples.plain_file import read_plain
from samples.quote import quote

QUIET_FOR_S = 600.0
"""Shorter silences never print a note: saving, validation and start-up take minutes."""
QUIET_FOR_LINES = 20
"""Nor do silences shorter than this multiple of the time between two lines."""
CLOCK_S = 60.0
"""Clocks of machines may differ by this much; beyond it, times cannot be compared."""
LONGEST_PAUSE_S = 21_600.0
"""Longest time between two lines beside their steps: validation, saving, a restart."""
MAX_BYTES = 1 << 22
"""Largest size of the small files of a run folder; starts.log gets a line per start."""
TOO_MUCH = 1e15
"""Above any real count, rate or time, in steps or seconds."""


@dataclass(frozen=True, kw_only=True)
class CheckpointStatus:
    """The checkpoint that a resumed run loads if checksums match; if none is whole, the first that it tries."""

    name: str
    step: int | None
    whole: bool
    """Whether meta.json exists, and every file that it lists has its size. Only a resumed run checks the checksums."""
    problem: str | None
    saved: str | None
    """UTC, ISO 8601."""
    passed_over: dict[str, str]
    """Checkpoints that would be tried before it, and `latest` itself, if they cannot be used: name -> reason."""


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """The state of a run, from its folder; None where the folder does not show it."""

    run_dir: str
    name: str
    stage: str
    """starting, training, stopped (by request, and saved), finished or failed. A run that left no line about its end
    (killed, or not started by slurm/pretrain.sh) keeps its last stage: see `silent_s`."""
    exit_code: int | None
    """Exit code of the last start, if it has ended."""
    step: int
    total_steps: int | None
    epoch: int | None
    """The current epoch, from 1."""
    epochs: int | None
    """None when the run's length is given in steps."""
    samples_per_s: float | None
    step_s: float | None
    left_s: float | None
    """Estimated time of the remaining steps."""
    losses: dict[str, float | None]
    """Losses of the last line: name -> nats."""
    checkpoint: CheckpointStatus | None
    starts: int
    requeues: int
    """Number of starts that were requeued Slurm jobs."""
    job: str | None
    """Slurm job id of the last start."""
    started: str | None
    """Time of the last start, UTC, ISO 8601."""
    silent_s: float | None
    """Seconds since the run last wrote something; None if it has ended, or the clocks cannot be compared."""
    clock_ahead_s: float | None
    """By how much the run's last entry is dated later than now; None if it is not."""
    overdue: bool
    """Whether the silence is longer than this run's usual pauses."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `status`."""
    parser.add_argument("run_dir", type=Path, metavar="RUN", help="the run folder, such as runs/NAME")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def run(args: argparse.Namespace) -> int:
    """`status`; returns 0 in every stage."""
    status = read_status(args.run_dir)
    print_answer(json.dumps(dataclasses.asdict(status), indent=2) if args.json else describe(status))
    return 0


def read_status(run_dir: Path, *, now: float | None = None) -> RunStatus:
    """Read a run folder.

    Args:
        now: seconds since the epoch, for `silent_s`; by default the clock's.

    Raises: ConfigError when it is not a run folder, or its config.yaml cannot be read.
    """
    config = _config(run_dir)
    starts = [_fields(line) for line in _lines(run_dir / "starts.log")]
    ends = [_fields(line) for line in _lines(run_dir / "ends.log")]
    environment = _json(run_dir / "env.json")
    last, line_s = _last_training_line(run_dir / "metrics.jsonl")
    checkpoint = _checkpoint(run_dir / "checkpoints")

    total = _count(config.get("max_steps")) or _count(last.get("total_steps"))
    step = _count(last.get("step")) or 0
    if checkpoint is not None:
        step = max(step, checkpoint.step or 0)
    began = [_seconds(text) for text in (starts[-1]["time"] if starts else None, environment.get("started")) if text]
    started = max((second for second in began if second is not None), default=None)
    codes = [end.get("code", "") for end in ends if end.get("start") == str(len(starts))]
    ended = next((int(code) for code in codes if code.isdecimal()), None)
    stage = _stage(step, total, checkpoint, ended, started, last)
    step_s = _amount(last.get("speed/step_s"))
    signs = [second for second in (started, _amount(last.get("time"))) if second is not None]
    alive = stage in ("starting", "training")
    since_s = (time.time() if now is None else now) - max(signs) if alive and signs else None
    ahead_s = -since_s if since_s is not None and since_s < -CLOCK_S else None
    silent_s = None if since_s is None or ahead_s is not None else max(0.0, since_s)
    by_steps = _count(config.get("max_steps")) is not None
    return RunStatus(
        run_dir=str(run_dir),
        name=str(config.get("name") or run_dir.name),  # a Plain is shown as written
        stage=stage,
        exit_code=ended,
        step=step,
        total_steps=total,
        epoch=None if (epoch := _count(last.get("data/epoch"))) is None else epoch + 1,
        epochs=None if by_steps else _count(config.get("epochs")),
        samples_per_s=_amount(last.get("speed/samples_per_s")),
        step_s=step_s,
        left_s=max(0, total - step) * step_s if total is not None and step_s is not None else None,
        losses={name.removeprefix("train/"): last[name] for name in last if name.startswith("train/loss")},
        checkpoint=checkpoint,
        starts=max(len(starts), int(started is not None)),
        requeues=sum(start.get("restart", "0") != "0" for start in starts),
        job=next((start["job"] for start in starts[-1:] if start.get("job", "none") != "none"), None),
        started=_text(started),
        silent_s=silent_s,
        clock_ahead_s=ahead_s,
        overdue=silent_s is not None and silent_s > max(QUIET_FOR_S, QUIET_FOR_LINES * line_s),
    )


def describe(status: RunStatus) -> str:
    """The status as text."""
    of = f" of {status.total_steps:,} ({100 * status.step / status.total_steps:.1f}%)" if status.total_steps else ""
    epoch = f", epoch {status.epoch}" if status.epoch else ""
    epoch += f" of {status.epochs}" if epoch and status.epochs else ""
    rows = {
        "run": f"{quote(status.name)} in {status.run_dir}",
        "stage": status.stage + _stage_note(status),
        "step": f"{status.step:,}{of}{epoch}",
        "rate": "no line yet",
        "left": "not known yet" if status.left_s is None else duration(status.left_s),
        "loss": ", ".join(map(_loss, status.losses.items())) or "no line yet",
        "checkpoint": "none yet",
        "starts": f"{status.starts}, {status.requeues} of them requeued",
    }
    if status.samples_per_s is not None and status.step_s is not None:
        rows["rate"] = f"{status.samples_per_s:,.1f} samples/s, {status.step_s:.3g} s a step"
    if (checkpoint := status.checkpoint) is not None:
        rows["checkpoint"] = f"{checkpoint.name}, saved {quote(checkpoint.saved)}, whole"
        if not checkpoint.whole:
            rows["checkpoint"] = f"{checkpoint.name} is NOT whole: {checkpoint.problem}; there is none before it"
    lines = [f"{name:11}{text}" for name, text in rows.items()]
    if checkpoint is not None:
        lines += [f"{'note':11}{name} cannot be used: {why}" for name, why in checkpoint.passed_over.items()]
    if status.clock_ahead_s is not None:
        ahead = duration(status.clock_ahead_s)
        lines.append(f"{'note':11}the run's last sign of life is dated {ahead} from now: was a clock set back?")
    if status.overdue and status.silent_s is not None:
        lines.append(f"{'note':11}nothing written for {duration(status.silent_s)}: is its job still running?")
    return "\n".join(lines)


def _loss(item: tuple[str, float | None]) -> str:
    """`9.0000` for the sum, `itc 5.0000` for a part."""
    name, value = item
    text = "not finite" if value is None else f"{value:.4f}"
    return text if name == "loss" else f"{name.removeprefix('loss_')} {text}"


def _stage_note(status: RunStatus) -> str:
    job = f"job {quote(status.job)}, " if status.job else ""
    if status.stage == "failed":
        return f" ({job}exit code {status.exit_code})"
    if status.stage == "stopped":
        return f" ({job}saved; the same command resumes, or Slurm does if the job was requeued)"
    return f" ({job}since {status.started})" if status.stage != "finished" and status.started else ""


def _stage(
    step: int,
    total: int | None,
    checkpoint: CheckpointStatus | None,
    ended: int | None,
    started: float | None,
    last: dict[str, Any],
) -> str:
    """The latest stage that the files prove."""
    saved = (checkpoint.step or 0) if checkpoint is not None else 0
    if ended == 0 or (ended is None and total is not None and saved >= total):
        return "finished"
    if ended is not None:
        return "stopped" if ended == 75 else "failed"
    return "training" if last.get("time", 0.0) > (started or 0.0) else "starting"


def _config(run_dir: Path) -> dict[str, Any]:
    """config.yaml; empty if the run has just started and has none yet."""
    known = ("config.yaml", "starts.log", "env.json", "metrics.jsonl", "checkpoints")
    if not any((run_dir / name).exists() for name in known):
        runs = sorted(path.parent.name for path in run_dir.glob("*/config.yaml"))
        what = "is not a run folder" if run_dir.is_dir() else "does not exist"
        hint = (
            f"there are {', '.join(f'{run_dir}/{name}' for name in runs[:5])}"
            if runs
            else "give runs/NAME, a run's folder"
        )
        raise ConfigError(f"{run_dir} {what}", hint)
    path = run_dir / "config.yaml"
    if not os.path.lexists(path):
        return {}
    try:
        return read_recipe(path)
    except ConfigError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.message}", "restore or remove it; the next start of the run writes it"
        ) from error


def _lines(path: Path) -> list[str]:
    """The complete lines of a small text file; none if it does not exist."""
    try:
        text = read_plain(path, MAX_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line for line in text.split("\n")[:-1] if line.strip()]


def _fields(line: str) -> dict[str, str]:
    """`TIME name=value name=value ...`, as slurm/lib.sh writes."""
    first, *rest = line.split()
    return {"time": first} | {name: value for name, _, value in (word.partition("=") for word in rest)}


def _json(path: Path) -> dict[str, Any]:
    try:
        values = parse_json(read_plain(path, MAX_BYTES))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _last_training_line(path: Path) -> tuple[dict[str, Any], float]:
    """The last line of training scalars, and the seconds between the last two of them (0 with fewer)."""
    try:
        newest = list(itertools.islice((line for line in newest_first(path) if "train/loss" in line), 2))
    except OSError:
        newest = []
    if len(newest) < 2:
        return (newest[0] if newest else {}), 0.0
    last, before = newest
    steps_s = max(0, last["step"] - before["step"]) * (_amount(last.get("speed/step_s")) or 0.0)
    pause_s = (_amount(last.get("time")) or 0.0) - (_amount(before.get("time")) or 0.0)
    return last, pause_s if 0 <= pause_s <= steps_s + LONGEST_PAUSE_S else steps_s  # otherwise a clock was set


def _count(value: object) -> int | None:
    """A number of steps or epochs; None for anything else."""
    value = value.value if isinstance(value, Plain) else value
    return value if type(value) is int and 0 <= value < TOO_MUCH else None


def _amount(value: object) -> float | None:
    """A time or a rate; None for anything else."""
    return value if isinstance(value, int | float) and 0 <= value < TOO_MUCH else None


def _checkpoint(folder: Path) -> CheckpointStatus | None:
    """The checkpoint that pretrain, export and replay would load; None if none was ever finished."""
    try:
        survey = survey_checkpoints(folder, checksums=False)
    except CheckpointError as error:
        return CheckpointStatus(
            name=folder.name, step=None, whole=False, problem=error.message, saved=None, passed_over={}
        )
    others = dict(survey.passed_over)
    if survey.taken is not None:
        path, meta = survey.taken
        return CheckpointStatus(
            name=path.name, step=meta.step, whole=True, problem=None, saved=meta.created, passed_over=others
        )
    if not survey.num_published:
        return None
    name = next(name for name in others if step_of(name) is not None)
    problem = others.pop(name)
    return CheckpointStatus(name=name, step=step_of(name), whole=False, problem=problem, saved=None, passed_over=others)


def _seconds(text: object) -> float | None:
    """ISO 8601 to seconds since the epoch; None for anything else."""
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, OverflowError):
        return None


def _text(second: float | None) -> str | None:
    try:
        return None if second is None else datetime.fromtimestamp(second, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError):  # the last day of the year 9999, in another time zone
        return None
