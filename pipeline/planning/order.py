"""`pipeline order MANIFEST ...`: the samples of each global step, from the loader's own tasks. No GPU, no torch."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass

from albef.errors import ConfigError
from pipeline.config.sections import DEFAULT_WINDOW_SHARDS, check_weights
from pipeline.data.corpus.manifest import Manifest, read_manifest
from pipeline.data.sampling.epoch_order import LaneOrder
from pipeline.data.sampling.lane_plan import lane_order, lane_tasks
from pipeline.data.sampling.lanes import LaneTask, lanes_of_rank
from pipeline.run.logs import print_answer


@dataclass(frozen=True, kw_only=True)
class PlannedLane:
    """One lane's micro-batch of one step, and the rank and worker that build it."""

    rank: int
    worker: int | None
    """Worker of that rank; None without workers. Valid for a run that starts at the first requested step."""
    task: LaneTask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `order`."""
    parser.description = (
        f"{parser.description}. One line per global step, lanes in order: the tasks that the training loader would "
        "send to its workers. With --epoch, --steps counts from the start of that epoch; without, over all epochs, "
        "like the step of a run."
    )
    parser.add_argument("manifests", nargs="+", metavar="MANIFEST", help="data.manifests of the recipe, in its order")
    parser.add_argument("--seed", type=int, required=True, metavar="S", help="the recipe's seed")
    parser.add_argument("--epoch", type=int, metavar="E", help="count --steps within this epoch, from 0")
    parser.add_argument("--global-batch-size", type=int, required=True, metavar="B", help="samples in a global step")
    parser.add_argument("--micro-batch-size", type=int, required=True, metavar="b", help="samples in a lane")
    parser.add_argument("--world-size", type=int, default=1, metavar="W", help="ranks (default: 1)")
    parser.add_argument("--num-workers", type=int, default=0, metavar="K", help="workers of each rank (default: 0)")
    parser.add_argument(
        "--steps", required=True, metavar="A:B", help="steps A to B - 1, counted from 0; or A for one step"
    )
    parser.add_argument(
        "--shuffle-window-shards",
        type=int,
        default=DEFAULT_WINDOW_SHARDS,
        metavar="N",
        help=f"data.shuffle_window_shards of the recipe (default: {DEFAULT_WINDOW_SHARDS})",
    )
    parser.add_argument("--weights", metavar="W,W", help="data.weights of the recipe (default: none, by size)")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per line, with rank and worker of each lane"
    )


def run(args: argparse.Namespace) -> int:
    """Print the steps; returns 0."""
    for flag in ("global_batch_size", "micro_batch_size", "world_size", "shuffle_window_shards"):
        _at_least(flag, getattr(args, flag), 1)
    for flag in ("seed", "num_workers"):
        _at_least(flag, getattr(args, flag), 0)
    if args.global_batch_size % args.micro_batch_size:
        raise ConfigError(
            f"--global-batch-size {args.global_batch_size} is not a whole number of lanes of "
            f"--micro-batch-size {args.micro_batch_size}",
            f"as --global-batch-size {-(-args.global_batch_size // args.micro_batch_size) * args.micro_batch_size}",
        )
    num_lanes = args.global_batch_size // args.micro_batch_size
    lanes_of_rank(0, args.world_size, num_lanes)
    weights = _weights(args.weights, len(args.manifests))
    manifest = read_manifest(args.manifests, check_shards=False)  # names are printed, so the shards need not exist
    order = lane_order(
        manifest,
        seed=args.seed,
        window_shards=args.shuffle_window_shards,
        weights=weights,
        micro_batch_size=args.micro_batch_size,
        num_lanes=num_lanes,
    )
    steps = _steps(args.steps, args.epoch, order)
    for lanes in itertools.islice(plan(manifest, order, args.world_size, args.num_workers, steps.start), len(steps)):
        print_answer(_json(lanes, order) if args.json else _text(lanes, order))
    return 0


def plan(
    manifest: Manifest, order: LaneOrder, world_size: int, num_workers: int, start_step: int
) -> Iterator[list[PlannedLane]]:
    """The lanes of each global step from `start_step` on, without end, divided among `world_size` ranks' loaders.

    Each rank's tasks are those that its loader would assign to `num_workers`.
    """
    shares = [lanes_of_rank(rank, world_size, order.num_lanes) for rank in range(world_size)]
    tasks = [lane_tasks(manifest, order, lanes, start_step) for lanes in shares]
    for turn in itertools.count():
        yield [
            PlannedLane(
                rank=rank,
                worker=(turn * len(lanes) + number) % num_workers if num_workers else None,
                task=next(tasks[rank]),
            )
            for rank, lanes in enumerate(shares)
            for number in range(len(lanes))
        ]


def _text(lanes: list[PlannedLane], order: LaneOrder) -> str:
    task = lanes[0].task
    listed = " | ".join(f"lane {lane.task.lane}: {' '.join(lane.task.names)}" for lane in lanes)
    return f"step {task.step} (epoch {task.epoch}, step {task.step % order.steps_per_epoch}): {listed}"


def _json(lanes: list[PlannedLane], order: LaneOrder) -> str:
    task = lanes[0].task
    return json.dumps(
        {
            "step": task.step,
            "epoch": task.epoch,
            "step_of_epoch": task.step % order.steps_per_epoch,
            "lanes": [
                {"lane": lane.task.lane, "rank": lane.rank, "worker": lane.worker, "keys": lane.task.names}
                for lane in lanes
            ],
        }
    )


def _steps(text: str, epoch: int | None, order: LaneOrder) -> range:
    """The requested global steps, counted over all epochs."""
    first, colon, last = text.partition(":")
    if not first.isdecimal() or (colon and not last.isdecimal()):
        raise ConfigError(f"--steps {text} is no range of steps", "write --steps 100:110, or --steps 100 for one step")
    start, stop = int(first), int(last) if colon else int(first) + 1
    if start >= stop:
        raise ConfigError(
            f"--steps {text} holds no step", f"the second number is the first step left out: {start}:{start + 1}"
        )
    if epoch is None:
        return range(start, stop)
    _at_least("epoch", epoch, 0)
    if stop > order.steps_per_epoch:
        raise ConfigError(
            f"--steps {text}: epoch {epoch} has {order.steps_per_epoch} steps, 0 to {order.steps_per_epoch - 1}",
            "without --epoch, --steps counts over all epochs",
        )
    before = epoch * order.steps_per_epoch
    return range(before + start, before + stop)


def _weights(text: str | None, num_sources: int) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--weights {text} is no list of numbers", "write --weights 3,1 for two manifests") from None
    check_weights(weights, num_sources, "--weights")
    return weights


def _at_least(flag: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"--{flag.replace('_', '-')} {value} is less than {least}", f"give {least} or more")
