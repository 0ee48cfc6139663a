"""How a run changes when it resumes on other ranks or at another ZeRO stage: `python -m benchmarks.reshard`.

Each layout trains the tiny recipe ten steps without interruption, dropout and augmentation on, and saves after five.
Then every other layout resumes from that checkpoint. Printed is the largest difference of the last weights, teacher or
queue from the run that was not interrupted, as a share of the part's largest value; 0 means equal to the bit.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import torch

from tests.support.training_runs import begin_at, digest, newest, relative_differences, run

STAGES = (0, 1, 2)
LANES = {2: (1, 2), 4: (1, 2, 4)}
"""lanes -> numbers of ranks that share them."""


def main() -> None:
    """Print the two tables for docs/resume.md."""
    print(f"{datetime.now(UTC).date()}, {os.cpu_count()} CPU cores, torch {torch.__version__}, fp32\n")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        whole = {
            (lanes, ranks, stage): train(folder, lanes, ranks, stage)
            for lanes, worlds in LANES.items()
            for ranks in worlds
            for stage in STAGES
        }
        print("| lanes | ranks | ZeRO 0 | ZeRO 1 | ZeRO 2 |\n| --- | --- | --- | --- | --- |")
        for lanes, worlds in LANES.items():
            for before, after in itertools.permutations(worlds, 2):
                cells = [compare(folder, whole[lanes, before, stage], lanes, after, stage) for stage in STAGES]
                print(f"| {lanes} | {before} to {after} | {' | '.join(cells)} |", flush=True)
        print("\n| ZeRO | 2 ranks, 2 lanes |\n| --- | --- |")
        for before, after in itertools.permutations(STAGES, 2):
            print(f"| {before} to {after} | {compare(folder, whole[2, 2, before], 2, 2, after)} |", flush=True)


def train(folder: Path, lanes: int, ranks: int, stage: int, name: str = "") -> Path:
    """A run folder whose last checkpoint is of step 10."""
    name = name or f"{lanes}_lanes_{ranks}_ranks_zero{stage}"
    overrides = [
        f"--batch.micro_batch_size={8 // lanes}",
        f"--deepspeed.config=zero{stage}_fp32",
        "--checkpoint.save_every=5",
    ]
    return run(folder, name, ranks=ranks, overrides=overrides).parents[1]


def compare(folder: Path, whole: Path, lanes: int, ranks: int, stage: int) -> str:
    """Resume from `whole`'s fifth step under this layout; returns the largest difference at the end."""
    name = f"from_{whole.name}_to_{ranks}_ranks_zero{stage}"
    begin_at(whole, 5, folder / name)
    changed = train(folder, lanes, ranks, stage, name)
    if digest(newest(changed)) == digest(newest(whole)):
        return "0"
    return f"{max(relative_differences(newest(changed), newest(whole)).values()):.0e}"


if __name__ == "__main__":
    main()
