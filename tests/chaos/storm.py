"""kill -9 at random instants over one run, and what differs in the end from an undisturbed run.

    python -m tests.chaos.storm [--kills 50] [--ranks 2] [--seed 0] [--steps 400]

Every start is the command line under torchrun, as a person types it; a kill ends the launcher, all ranks and their
loader workers at the same instant. The kills are spread over starting up, training and saving; where each one hit is
read from the run folder afterwards. Prints one JSON object; exit code 1 when a bit differs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import torch

from pipeline.checkpoints.layout import META
from tests.support.job_processes import family
from tests.support.tiny_run import tiny_recipe
from tests.support.training_runs import losses, newest, whole_state

ROOT = Path(__file__).parents[2]
SAVE_EVERY = 2
LATE_SAVES = 6
"""After the steps of this many saves a kill that is aimed at one strikes anyway, before the run is over."""
PHASES = ("starting", "training", "saving")
GIVE_UP_S = 300.0


class Life(Protocol):
    """One start of the run."""

    def alive(self) -> bool:
        """Whether it still runs."""

    def kill(self) -> None:
        """SIGKILL to every process of it, and wait until they are gone."""

    def finish(self) -> None:
        """Wait for its end, and check that it succeeded."""


class CommandLine:
    """torchrun with the ranks of `python -m pipeline pretrain`."""

    def __init__(self, recipe: Path, run_dir: Path, ranks: int, overrides: list[str]) -> None:
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
        words = [sys.executable, "-m", *launcher, "pipeline", "pretrain", str(recipe), "--run-dir", str(run_dir)]
        self._process = subprocess.Popen(
            words + overrides,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def alive(self) -> bool:
        """Whether the launcher still runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL to the launcher and all that descend from it."""
        victims = family(self._process.pid)
        for pid in victims:
            os.kill(pid, signal.SIGSTOP)  # so that no process starts between the list and the kills
        for pid in {*victims, *family(self._process.pid)}:
            os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def finish(self) -> None:
        """Check that it ends with exit code 0."""
        assert self._process.wait(timeout=GIVE_UP_S) == 0, "the last start failed: see its logs in the run folder"


@dataclass
class Storm:
    """What the kills hit."""

    hits: Counter[str] = field(default_factory=Counter)
    starts: int = 0


class Watch:
    """What one start of the run has done so far, as the run folder records it."""

    def __init__(self, run_dir: Path, life: Life) -> None:
        self._run_dir, self._life = run_dir, life
        self._began = time.time()
        self._fewest = self._lines()

    def steps(self) -> int:
        """Steps logged by this start. Resuming from a checkpoint first cuts the lines after it, so ask often."""
        lines = self._lines()
        self._fewest = min(self._fewest, lines)
        return lines - self._fewest

    def saving(self) -> bool:
        """Whether this start is writing a checkpoint, or was when it died."""
        for path in self._run_dir.glob("checkpoints/step_*"):
            with contextlib.suppress(FileNotFoundError):  # retention removed it in between
                if path.stat().st_mtime >= self._began and not (path / META).exists() and path.exists():
                    return True
        return False

    def wait(self, seconds: float) -> None:
        """Let this much time pass."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.steps()
            time.sleep(0.001)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Look every millisecond. Raises: RuntimeError when the run ends, or nothing happens."""
        deadline = time.monotonic() + GIVE_UP_S
        while not condition():
            self.steps()
            if not self._life.alive():
                raise RuntimeError("the run ended before the storm did: see its logs, or use more --steps")
            if time.monotonic() > deadline:
                raise RuntimeError(f"nothing happened in {GIVE_UP_S:g} s")
            time.sleep(0.001)

    def _lines(self) -> int:
        path = self._run_dir / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0


def strike(life: Life, run_dir: Path, phase: str, draw: random.Random, startup_s: float) -> str:
    """Wait for an instant of the phase, then kill. Returns: the phase that was really hit."""
    watch = Watch(run_dir, life)
    if phase == "starting":
        watch.wait(draw.uniform(0, startup_s))
    elif phase == "training":
        steps = draw.randint(1, 2 * SAVE_EVERY)
        watch.wait_until(lambda: watch.steps() >= steps)
        watch.wait(draw.uniform(0, 0.2))
    else:
        late = LATE_SAVES * SAVE_EVERY  # when one save follows another at once, the pause between them is not seen
        for _ in range(draw.randint(1, 2)):
            watch.wait_until(lambda: (watch.steps() > 0 and not watch.saving()) or watch.steps() >= late)
            watch.wait_until(lambda: watch.saving() or watch.steps() >= late)
        watch.wait(draw.uniform(0, 0.1))
    life.kill()
    if watch.saving():
        return "saving"
    return "training" if watch.steps() else "starting"


def differing_bits(one: Path, other: Path) -> int:
    """Bits that differ between two checkpoints: weights, AdamW's moments, teacher, queue."""
    ours, theirs = whole_state(one), whole_state(other)
    assert ours.keys() == theirs.keys()
    count = 0
    for name, tensor in ours.items():
        first, second = (t.contiguous().reshape(-1).view(torch.uint8) for t in (tensor, theirs[name]))
        unequal = (first ^ second)[first != second]
        count += sum(value.bit_count() for value in unequal.tolist())
    return count


def storm(start: Callable[[], Life], run_dir: Path, kills: int, seed: int, startup_s: float) -> Storm:
    """Kill `kills` starts of one run, a third aimed at each phase, then let it end.

    Args:
        start: starts or resumes the run in `run_dir`; gives a Life.
        startup_s: seconds a start needs until its first step.
    """
    draw = random.Random(seed)
    aims = [PHASES[number % len(PHASES)] for number in range(kills)]
    draw.shuffle(aims)
    result = Storm()
    for aim in aims:
        result.starts += 1
        result.hits[strike(start(), run_dir, aim, draw, startup_s)] += 1
    result.starts += 1
    start().finish()
    return result


def main() -> int:
    """The long storm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ranks", type=int, default=2, choices=[1, 2])
    parser.add_argument("--steps", type=int, default=400, help="length of the run; it must outlast the kills")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    overrides = [f"--max_steps={flags.steps}", f"--checkpoint.save_every={SAVE_EVERY}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = tiny_recipe(folder)
        began = time.monotonic()
        alone = CommandLine(recipe, folder / "alone", flags.ranks, overrides)
        watch = Watch(folder / "alone", alone)
        watch.wait_until(lambda: watch.steps() > 0)
        startup_s = time.monotonic() - began
        alone.finish()
        result = storm(
            lambda: CommandLine(recipe, folder / "struck", flags.ranks, overrides),
            folder / "struck",
            flags.kills,
            flags.seed,
            startup_s,
        )
        bits = differing_bits(newest(folder / "struck"), newest(folder / "alone"))
        same_curve = losses(folder / "struck") == losses(folder / "alone")
    facts = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "torch": torch.__version__,
        "ranks": flags.ranks,
        "steps": flags.steps,
        "kills": flags.kills,
        "hit": dict(result.hits),
        "starts": result.starts,
        "bits_that_differ": bits,
        "same_losses": same_curve,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    print(json.dumps(facts))
    return 0 if bits == 0 and same_curve else 1


if __name__ == "__main__":
    sys.exit(main())
