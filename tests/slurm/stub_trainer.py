"""A trainer of no weights that keeps the contract `slurm/pretrain.sh` relies on, in milliseconds.

Steps take 50 ms; rank 0 publishes `checkpoints/latest`; SIGUSR1 and SIGTERM end it with 75 after the step. Overrides:
`steps=N` (then exit 0), `exit_code=C` with `exit_rank=R` (leave before the first step), `stuck=1` (stop at once).
The tests copy it to `pipeline/__main__.py` of a folder that looks like the project.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    command, recipe, flag, run_dir, *overrides = sys.argv[1:]
    assert (command, flag) == ("pretrain", "--run-dir"), sys.argv
    settings = dict(override.split("=", 1) for override in overrides)
    rank = int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)
    size = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or "1"
    told: list[int] = []
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: told.append(number))
    latest = Path(run_dir, "checkpoints", "latest")
    latest.parent.mkdir(parents=True, exist_ok=True)
    step = int(latest.read_text().removeprefix("step_")) if latest.exists() else 0
    print(f"rank {rank} of {size} at step {step} recipe {recipe} master {os.environ.get('MASTER_ADDR')}", flush=True)
    if rank == int(settings.get("exit_rank", "-1")):
        return int(settings["exit_code"])
    if "stuck" in settings:
        return 75
    while step < int(settings["steps"]):
        time.sleep(0.05)
        step += 1
        if rank == 0:
            Path(run_dir, f"published.{os.getpid()}").write_text(f"step_{step:08d}")
            Path(run_dir, f"published.{os.getpid()}").replace(latest)
        if told:
            time.sleep(0.3 * rank)  # the ranks do not leave in the same instant
            return 75
    return 0


if __name__ == "__main__":
    sys.exit(main())
