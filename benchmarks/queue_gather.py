"""What the queue's all-gather adds to a training step: `python -m benchmarks.queue_gather`.

    python -m benchmarks.queue_gather [--shape small] [--batch 8] [--steps 20]

Two ranks on gloo take the trainer's step on noise, with the gather and without, in turns of one step; without it each
rank puts its own features twice into the queue, so that the rest of the step is the same. Prints one JSON object of
rank 0, with the quartiles of each time in milliseconds:

    step_with_ms, step_without_ms   the whole step
    under_way_ms                    from the gather's launch, after the teacher's forward, to where it is awaited
    waited_ms                       what the step then waits for it: the exposed time
    alone_ms                        the same gather with nothing beside it, launch to end
    finished                        share of the steps in which it had ended before it was awaited
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.environment import environment
from tests.support.ranks import run_ranks

RANKS = 2
WARM_UP = 1
SHAPES = {
    "small": ["--model.size=tiny", "--objective.queue_size=4096"],
    "medium": [
        *("--model.size=tiny", "--model.image_size=128", "--model.vision_width=384", "--model.vision_depth=6"),
        *("--model.vision_heads=6", "--model.text_width=384", "--model.text_heads=6", "--model.text_ffn_width=1536"),
        *("--model.text_depth=3", "--model.fusion_depth=3", "--model.embed_dim=256", "--objective.queue_size=65536"),
    ],
}
"""Keys of the recipe: a small model, and one of width 384 with the paper's queue and embedding."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--batch", type=int, default=8, help="samples of a rank in a step, one lane")
    parser.add_argument("--steps", type=int, default=20, help="of each kind")
    args = parser.parse_args(argv)
    times = run_ranks(take_steps, RANKS, args.shape, args.batch, args.steps, process_group=False, timeout_s=3_600)[0]
    found = {name: spread(name, values) for name, values in times.items()}
    print(json.dumps({**vars(args), **found, "load_average": os.getloadavg(), "environment": environment()}))


def take_steps(_rank: int, world_size: int, shape: str, batch: int, steps: int) -> dict[str, list[float]]:
    """On one rank: seconds of each measured step, by what is measured."""
    from pipeline.config.resolve import load_config
    from pipeline.engine import distributed
    from pipeline.planning.bench_engine import BenchStep, build_parts

    sizes = [f"--batch.micro_batch_size={batch}", f"--batch.global_batch_size={batch * world_size}"]
    world = distributed.init()
    step = BenchStep(build_parts(load_config("albef_14m", [*SHAPES[shape], *sizes]), world))
    gather = TimedGather(step.parts.task.queue)
    times: dict[str, list[float]] = {name: [] for name in ("step_with_ms", "step_without_ms")}
    for number in range(2 * (WARM_UP + steps)):
        gather.on = number % 2 == 0
        dist.barrier()
        began = time.perf_counter()
        step()
        if number >= 2 * WARM_UP:
            times["step_with_ms" if gather.on else "step_without_ms"].append(time.perf_counter() - began)
    times |= {name: values[WARM_UP:] for name, values in gather.times.items()}
    times["alone_ms"] = [gather_alone(batch, step.parts.run.model.embed_dim, world_size) for _ in range(steps)]
    distributed.shutdown()
    return times


class TimedGather:
    """Times the all-gather of a queue, or leaves it out."""

    def __init__(self, queue: Any) -> None:
        self.on = True
        self.times: dict[str, list[float]] = {"under_way_ms": [], "waited_ms": [], "finished": []}
        self._queue, self._gather, self._enqueue = queue, queue.gather, queue.enqueue
        self._launched = 0.0
        queue.gather, queue.enqueue = self.gather, self.enqueue

    def gather(self, *features: Tensor, num_lanes: int) -> None:
        """The queue's, or its own rows for those of every rank."""
        if self.on:
            self._gather(*features, num_lanes=num_lanes)
            self._launched = time.perf_counter()
        else:
            with mock.patch("torch.distributed.all_gather_into_tensor", repeat):
                self._gather(*features, num_lanes=num_lanes)

    def enqueue(self) -> None:
        """The queue's, with the wait before it."""
        if self.on:
            work, began = self._queue._work, time.perf_counter()
            self.times["finished"].append(float(work.is_completed()))
            work.wait()
            self.times["under_way_ms"].append(began - self._launched)
            self.times["waited_ms"].append(time.perf_counter() - began)
        self._enqueue()


def repeat(gathered: Tensor, mine: Tensor, *, async_op: bool) -> None:
    """In place of the collective: nothing is sent."""
    gathered.copy_(mine.repeat(len(gathered) // len(mine), 1))


def gather_alone(batch: int, width: int, world_size: int) -> float:
    """Seconds of one gather of a lane's features of both modalities."""
    mine = torch.ones(batch, 2 * width)
    dist.barrier()
    began = time.perf_counter()
    dist.all_gather_into_tensor(mine.new_empty(world_size * batch, 2 * width), mine)
    return time.perf_counter() - began


def spread(name: str, values: Sequence[float]) -> float | list[float]:
    """Quartiles in milliseconds, or a share."""
    if not name.endswith("_ms"):
        return round(statistics.mean(values), 3)
    return [round(1e3 * value, 3) for value in statistics.quantiles(values, n=4)]


if __name__ == "__main__":
    main()
