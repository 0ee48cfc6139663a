"""A pipeline of no weights that keeps the contract the scripts of `slurm/` rely on, in milliseconds.

Steps take 50 ms; rank 0 publishes `checkpoints/latest`; SIGUSR1, SIGTERM and SIGINT end it with 75 after the step.
Flags: `--steps N` (then exit 0), `--exit-code C` with `--exit-rank R` (leave before the first step; `--exit-once 1`:
in the first start only), `--stuck 1` (stop at once), `--deaf 1` (start up for a minute, without handlers),
`--endless-first 1` (only a later start ends, after N steps of its own). `finetune` has a task before the recipe, and is
`pretrain` otherwise. `check` refuses `--typo`; `export` and
`evaluate` leave `--out` and print which rank did. The tests copy it to `pipeline/__main__.py` of a folder that looks
like the project.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    command, *words = sys.argv[1:]
    task = words.pop(0) if command == "finetune" else ""
    recipe, *flags = words
    if command not in ("pretrain", "finetune"):
        return other_command(command, flags)
    settings = dict(zip(flags[::2], flags[1::2], strict=True))
    run_dir = settings["--run-dir"]
    rank = int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)
    size = os.environ.get("WORLD_SIZE") or os.environ.get("SLURM_STEP_NUM_TASKS") or "1"
    if "--deaf" in settings:
        print("starting up", flush=True)
        time.sleep(60)
    signals: list[int] = []
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: signals.append(number))
    latest = Path(run_dir, "checkpoints", "latest")
    latest.parent.mkdir(parents=True, exist_ok=True)
    named = latest.read_text() if latest.is_file() else ""  # damage counts as none
    step = int(named.removeprefix("step_")) if named.startswith("step_") else 0
    trained = f"{task} recipe {recipe}".strip()
    print(f"rank {rank} of {size} at step {step} {trained} master {os.environ.get('MASTER_ADDR')}", flush=True)
    # The real ranks meet in a collective before the first step; without that, one might step while another has no
    # signal handlers yet.
    ready = latest.with_name(f"ready.{os.environ.get('MASTER_PORT')}.{os.environ.get('SLURM_RESTART_COUNT')}")
    ready.mkdir(exist_ok=True)
    (ready / str(rank)).touch()
    again = int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0
    if rank == int(settings.get("--exit-rank", "-1")) and not ("--exit-once" in settings and again):
        return int(settings["--exit-code"])
    while len(list(ready.iterdir())) < int(size) and not signals:
        time.sleep(0.01)
    if "--stuck" in settings:
        return 75
    last = int(settings["--steps"])
    if "--endless-first" in settings:
        last = step + last if again else 10**9
    while step < last:
        time.sleep(0.05)
        step += 1
        if rank == 0:
            Path(run_dir, f"published.{os.getpid()}").write_text(f"step_{step:08d}")
            Path(run_dir, f"published.{os.getpid()}").replace(latest)
        if signals:
            time.sleep(0.3 * rank)  # the ranks do not leave in the same instant
            return 75
    return 0


def other_command(command: str, flags: list[str]) -> int:
    if command == "check":
        if "--typo" in flags:
            print("error: --typo is not a flag or a key\nhint: none", file=sys.stderr)
        return 2 if "--typo" in flags else 0
    assert command in ("export", "evaluate"), command
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    print(f"{command} rank {rank} {flags}", flush=True)
    if "--fail" in flags:
        return 3 if rank == flags[flags.index("--fail") + 1] else 0
    if rank == "0":
        out = Path(flags[flags.index("--out") + 1])
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
