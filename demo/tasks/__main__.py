"""`python -m demo.tasks`: learn every task of the paper on the generated world, over seeds, and write the table."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import albef
from base import atomic_file
from base.child_process import run_child
from base.errors import UserError
from base.flag_types import count, positive
from base.parser import Parser
from demo.tasks.matching import matching_accuracy
from demo.tasks.table import as_table
from samples.quote import printable

PYTHON = sys.executable
WORLD = Path("data/world")
"""Where the plan has it, in the folder of the runs."""
MODEL = "distill_mlm/{seed}/model"
"""The pretrained model of a seed, in the ablation's folder."""


class StageFailedError(UserError):
    """A command did not end well."""


def main(argv: list[str] | None = None) -> int:
    """Do what is left, and print the table; returns the exit code: 0, or 2 for what the user can fix."""
    parser = Parser(
        prog="python -m demo.tasks",
        description="Learn every task of the paper on the generated world (docs/world.md). The same command resumes.",
    )
    parser.add_argument("--folder", type=Path, default=Path("runs/tasks"), help="of data and runs (runs/tasks)")
    parser.add_argument("--seeds", type=count, nargs="+", default=[0, 1, 2], metavar="N", help="(0 1 2)")
    parser.add_argument("--plan", default="world_tasks", help="of `pipeline ablate` (world_tasks)")
    parser.add_argument(
        "--scenes", type=positive, default=8000, metavar="N", help="training scenes of the world (8000)"
    )
    parser.add_argument("--at-once", type=positive, default=2, metavar="N", help="seeds that run at a time (2)")
    try:
        args = parser.parse_args(argv)
        plan = str(Path(args.plan).resolve()) if Path(args.plan).is_file() else args.plan
        make_data(args.folder, scenes=args.scenes)
        runs = args.folder / "runs" / Path(args.plan).stem
        ablate = [PYTHON, "-m", "pipeline", "ablate", plan, "--run-dir", str(runs.relative_to(args.folder))]
        run_at_once([[*ablate, "--seeds", str(seed)] for seed in args.seeds], args.folder, args.at_once)
        for seed in args.seeds:
            measure_matching(args.folder, runs / MODEL.format(seed=seed))
        text = as_table(runs, args.seeds)
        atomic_file.write_text(args.folder / "table.md", text)
    except UserError as error:
        print(f"error: {printable(error.message)}\nhint: {printable(error.hint)}", file=sys.stderr)
        return error.exit_code
    print(f"{text}\n{args.folder / 'table.md'}")
    return 0


def make_data(folder: Path, *, scenes: int) -> None:
    """The world, its shards, and the image encoder that pretraining starts from; what is there is not made again."""
    world = folder / WORLD
    world.parent.mkdir(parents=True, exist_ok=True)
    lists, zipped = world / "annotations" / "pretrain_train.json", world / "images.zip"
    pack = ["pack", "--annotations", str(lists), "--images", str(zipped), "--source", "world"]
    stages: list[tuple[Path, list[str]]] = [
        (world / "README.md", ["demo.world", str(world), "--scenes", str(scenes)]),
        (world / "shards" / "manifest.parquet", ["data_prep", *pack, "--out", str(world / "shards")]),
        (world / "image_encoder.pth", ["demo.tasks.image_encoder", str(world), str(world / "image_encoder.pth")]),
    ]
    for made, words in stages:
        if not made.exists() and (code := run_child([PYTHON, "-m", *words])):
            raise StageFailedError(f"`python -m {words[0]}` ended with exit code {code}", "see what it printed above")


def run_at_once(commands: Sequence[Sequence[str]], folder: Path, at_once: int) -> None:
    """Run commands in `folder`, some at a time, with a core each. All are tried.

    A command dies with this process, as `base.child_process` has it.

    Raises: StageFailedError when one did not end well.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    left, failed = list(commands), 0
    running: list[subprocess.Popen[bytes]] = []
    while left or running:
        while left and len(running) < at_once:
            words = [PYTHON, "-m", "base.child_process", *left.pop(0)]
            running.append(subprocess.Popen(words, cwd=folder, env=environment))
        failed += running.pop(0).wait() != 0
    if failed:
        raise StageFailedError(f"{failed} of {len(commands)} seeds failed", "see what they printed above")


def measure_matching(folder: Path, model: Path) -> None:
    """Write `matching.json` beside the model, once."""
    result = model.parent / "matching.json"
    if not result.exists():
        loaded = albef.Albef.from_pretrained(model, device="cpu")
        atomic_file.write_json(result, {"accuracy": matching_accuracy(loaded, folder / WORLD, "test")})


if __name__ == "__main__":
    sys.exit(main())
