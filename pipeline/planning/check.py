"""`pipeline check RECIPE`: what a recipe resolves to, before it takes any GPU time. No GPU, no process group."""

from __future__ import annotations

import argparse
import json

import numpy as np

from albef.errors import ConfigError, DataError
from pipeline.config.flags import add_recipe_argument, add_run_arguments, default_run_dir
from pipeline.config.resolve import load_config
from pipeline.config.run_config import RunConfig, to_yaml
from pipeline.config.sections import divisors
from pipeline.data import shared_memory
from pipeline.data.corpus.protocol import Corpus
from pipeline.data.sampling.epoch_order import LaneOrder
from pipeline.engine.ds_config import ResolvedDeepSpeed, find_ds_config, resolve_ds_config
from pipeline.engine.schedule import lr_at
from pipeline.planning.memory import estimate_memory
from pipeline.planning.readiness import order_of, refusals, shared_memory_warning
from pipeline.run.logs import print_answer, print_error
from pipeline.task_maker import TaskMaker
from pipeline.tasks.makers import maker_of

GIB = 2**30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `check`, beside every key of the recipe."""
    add_recipe_argument(parser)
    parser.add_argument(
        "--world-size",
        type=int,
        metavar="N",
        help="number of ranks to check (default: one per lane, the most)",
    )
    add_run_arguments(parser)
    parser.add_argument("--without-data", action="store_true", help="do not check the shards, which do not exist yet")


def run(args: argparse.Namespace) -> int:
    """Print the resolved recipe, DeepSpeed JSON, batch arithmetic, memory and data, and the errors of a start.

    Returns: 0, or 2 if there are errors.
    """
    config = load_config(args.recipe, args.overrides, other_flags=args.flags)
    world_size = config.batch.num_lanes if args.world_size is None else args.world_size
    if world_size < 1:
        raise ConfigError(f"--world-size {world_size} is not a number of ranks", "give 1 or more")
    ds, maker = resolve_ds_config(config, world_size), maker_of(config.task)
    sections = {
        f"recipe {config.name}, resolved": to_yaml(config).rstrip().splitlines(),
        f"DeepSpeed, {find_ds_config(config.deepspeed.config)} for {world_size} ranks": json.dumps(
            ds.config, indent=2
        ).splitlines(),
        "batch": batch_lines(config, ds, world_size, maker),
        "memory": memory_lines(config, ds, world_size, maker),
        "data": ["left out: not made yet"] if args.without_data else data_lines(config, world_size, maker),
    }
    for title, lines in sections.items():
        print_answer(f"== {title}")
        print_answer("\n".join(lines) + "\n")
    run_dir = args.run_dir or default_run_dir(config)
    found = refusals(config, run_dir, maker, resume=args.resume, without_data=args.without_data)
    for error in found:
        print_error(error.message, error.hint)
    return 2 if found else 0


def batch_lines(run: RunConfig, ds: ResolvedDeepSpeed, world_size: int, maker: TaskMaker) -> list[str]:
    """The batch identity for this world size, and the other world sizes that the recipe runs on."""
    batch = run.batch
    return [
        f"global_batch_size {batch.global_batch_size} = micro_batch_size {batch.micro_batch_size} x "
        f"grad_accum_steps {ds.grad_accum_steps} x world_size {world_size}",
        f"{batch.num_lanes} lanes: runs on {', '.join(map(str, divisors(batch.num_lanes)))} ranks, with the same steps",
        *maker.batch_lines(run),
        f"ZeRO stage {ds.stage}, {ds.precision}",
    ]


def memory_lines(run: RunConfig, ds: ResolvedDeepSpeed, world_size: int, maker: TaskMaker) -> list[str]:
    """The memory of a rank, by part."""
    memory = estimate_memory(run, ds, maker, world_size)
    return [
        f"{memory.parameters:,} trainable parameters",
        *(f"{name:12} {size / GIB:8.2f} GiB" for name, size in memory.parts.items()),
        f"{'total':12} {memory.total / GIB:8.2f} GiB on each of {world_size} ranks",
        "An estimate from shapes: activations are counted for full-length texts with whole attention matrices, which",
        "fused kernels do not keep; the rest is arithmetic. Allocator and kernel workspace are left out.",
    ]


def data_lines(run: RunConfig, world_size: int, maker: TaskMaker) -> list[str]:
    """Shards, samples and steps if the data exists; otherwise a line with the reason."""
    try:
        corpus = maker.corpus(run)
        corpus.check()
        order = order_of(run, corpus)
    except DataError as error:
        return [f"not ready, training will refuse: {error.message}"]
    num_shards, steps_per_epoch = len(corpus.shard_sizes), order.steps_per_epoch
    total = run.total_steps(steps_per_epoch)
    readers = world_size * max(1, run.data.num_workers)
    lines = [
        f"{num_shards:,} shards, {corpus.num_samples:,} samples, {order.remainder} of them left out of each epoch",
        *source_lines(corpus, order),
        f"{steps_per_epoch:,} steps an epoch, {total:,} steps in all ({total / steps_per_epoch:.1f} epochs)",
        f"{num_shards / readers:.1f} shards a worker ({world_size} ranks x {run.data.num_workers} workers; "
        "a worker takes single samples by their offset, so fewer than one is no obstacle)",
    ]
    if cost := corpus.reading_cost():
        lines.append(cost)
    if short := shared_memory_warning(run, world_size):
        lines.append(f"warning: {short}, for each rank of a machine; {shared_memory.HINT}")
    rates = [
        lr_at(step, run.schedule, lr=run.optim.lr, steps_per_epoch=steps_per_epoch, total_steps=total)
        for step in (0, min(run.schedule.warmup_steps, total - 1), total // 2, total - 1)
    ]
    lines.append("learning rate first, after warm-up, half way, last: " + ", ".join(f"{rate:.3g}" for rate in rates))
    if run.schedule.warmup_steps >= total:
        lines.append(f"note: the run ends within its warm-up of {run.schedule.warmup_steps:,} steps")
    return lines


def source_lines(corpus: Corpus, order: LaneOrder) -> list[str]:
    """Each source's samples and share, its samples in an epoch, and after how many epochs all are seen."""
    sizes = np.diff(corpus.starts[corpus.source_shards]).tolist()
    if order.mixture is None:
        if len(sizes) == 1:
            return []
        return [
            f"source {name}: {size:,} samples, share {size / corpus.num_samples:.4f} by size"
            for name, size in zip(corpus.sources, sizes, strict=True)
        ]
    lines = []
    for number, (name, size) in enumerate(zip(corpus.sources, sizes, strict=True)):
        share, taken = float(order.mixture.shares[number]), int(order.mixture.taken[number])
        left = (
            f"{size - taken:,} left for later epochs, all seen after {-(-size // taken)}"
            if taken < size
            else "all of it"
        )
        lines.append(f"source {name}: {size:,} samples, share {share:.4f}, {taken:,} in each epoch ({left})")
    return lines
