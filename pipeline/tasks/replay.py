"""`pipeline replay`: a skipped step of any task, taken again (`pipeline/watch/replay.py`)."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.errors import CheckpointError
from pipeline.config.run_config import DEFAULT_TASK, RUNS
from pipeline.run.logs import print_answer
from samples.quote import quote

if TYPE_CHECKING:
    from pipeline.watch.replay import MakeReplayable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `replay`."""
    parser.add_argument("dump", type=Path, metavar="DUMP", help="a folder skipped/step_* of a run")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="CKPT",
        help="weights to take: a step_* folder (default: the run's checkpoint with the weights of the skipped step, "
        "else the newest before it)",
    )
    parser.add_argument(
        "--precision", choices=["fp32", "bf16"], default="fp32", help="of the arithmetic (default: fp32)"
    )
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:N, or auto: CUDA where there is one (default)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def run(args: argparse.Namespace) -> int:
    """`replay`."""
    # torch is imported where it is used, so that `replay --help` need not wait for it
    from pipeline.checkpoints.layout import resolve_checkpoint
    from pipeline.watch.replay import nearest_checkpoint, replay, text_of
    from pipeline.watch.skipped_step_dump import plain, read_dump

    dump = read_dump(args.dump)
    checkpoint, _ = resolve_checkpoint(args.checkpoint or nearest_checkpoint(dump))
    report = replay(dump, checkpoint, way_of(checkpoint), device=args.device, precision=args.precision)
    print_answer(json.dumps(plain(report), indent=2) if args.json else text_of(report))
    return 0


def way_of(checkpoint: Path) -> MakeReplayable:
    """How the task of a checkpoint is taken again. Raises: CheckpointError when it names none of ours."""
    from pipeline.checkpoints.weights import read_shape
    from pipeline.tasks.finetuning import replay as fine_tuning
    from pipeline.tasks.makers import maker_of
    from pipeline.tasks.pretraining import replay as pretraining

    task = read_shape(checkpoint).get("task", DEFAULT_TASK)
    if task == DEFAULT_TASK:
        return pretraining.replayable
    if task not in RUNS:
        raise CheckpointError(
            f"{quote(checkpoint)} is of the task {quote(task)}", f"of {', '.join(RUNS)} it must be one"
        )
    kind: Any = RUNS[task]
    return partial(fine_tuning.replayable, kind(), maker_of(task))
