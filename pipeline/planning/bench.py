"""`pipeline bench step RECIPE`: what one training step of a recipe costs on this device.

The engine is built and the step is taken by the code that trains (`pipeline/train.py`), on noise and from random
weights; the loader is left out. The step is taken undisturbed for samples/s and processor seconds, then with a
stopwatch between its parts, then once with its operations counted. FLOPs are counted (`flops.py`), so MFU follows.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch

from albef.config import InitConfig
from albef.errors import ConfigError, TrainingError
from pipeline.config.flags import add_recipe_argument
from pipeline.config.run_config import RunConfig, load_config
from pipeline.config.sections import BatchConfig, ValidationConfig
from pipeline.engine.distributed import World, local_device
from pipeline.engine.ds_config import resolve_ds_config
from pipeline.engine.optim import optimizer_name
from pipeline.planning.flops import flops_per_sample, peak_flops
from pipeline.planning.operations import StepCounter
from pipeline.run.logs import print_answer
from pipeline.tasks.pretraining.maker import PRETRAINING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline.train import StepParts

WARM_UP = 2
"""Steps before the measured ones: allocations, and the optimizer's state."""
CPU_BATCH = BatchConfig(global_batch_size=8, micro_batch_size=4)
"""On a CPU, where the recipe's own batch would take minutes a step."""
STEPS = {"cuda": 20, "cpu": 3}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `bench step`, beside every key of the recipe."""
    parser.add_argument("what", choices=["step"], help="what to measure: one training step")
    add_recipe_argument(parser)
    parser.usage = f"{parser.prog} step RECIPE [flags] [--KEY VALUE ...]"
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="auto: cuda where there is one (default). On the CPU the batch is two lanes of 4 samples, "
        "unless --batch.global_batch_size or --batch.micro_batch_size is given",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="measured steps (default: 20 on CUDA, 3 on the CPU)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    recipe = load_config(args.recipe, args.overrides, other_flags=args.flags)
    device = local_device(args.device)
    steps = STEPS[device.type] if args.steps is None else args.steps
    if steps < 1:
        raise ConfigError(f"--steps {steps} measures nothing", "give 1 or more")
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
        if not any(word.startswith("--batch.") for word in args.overrides):
            recipe = dataclasses.replace(recipe, batch=CPU_BATCH)
    from pipeline.engine import distributed

    world = distributed.init()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed prints notes of its own
            result = measure_step(recipe, world, steps=steps)
        if world.is_main:
            print_answer(json.dumps(result) if args.json else table(result))
    finally:
        distributed.shutdown()
    return 0


def measure_step(recipe: RunConfig, world: World, *, steps: int) -> dict[str, Any]:
    """Take the recipe's training step and report what it costs this rank; a collective.

    Times are of a step: medians of the parts, the mean of the whole. Memory is in GiB.

    Raises: TrainingError when a step is skipped: it costs less than one that is taken.
    """
    parts = build_parts(recipe, world)
    batch = recipe.batch.micro_batch_size
    step = BenchStep(parts)
    for _ in range(WARM_UP):
        step()
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(world.device)
    step.synchronize()
    began, began_cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    step.synchronize()
    step_s, cpu_s = (time.perf_counter() - began) / steps, (time.process_time() - began_cpu) / steps
    peak_memory = peak_memory_gib(world.device)
    laps = []
    for _ in range(steps):
        stopwatch = Stopwatch(step.synchronize)
        step(stopwatch)
        laps.append(stopwatch.stop())
    with StepCounter() as counter:
        step(counter)
    samples = batch * len(parts.lanes)
    dtype = parts.ds.compute_dtype
    flops = flops_per_sample(PRETRAINING.sketch(recipe, dtype), PRETRAINING.noise(recipe, batch))
    peak, peak_source = peak_flops(world.device, dtype)
    return {
        "what": "step",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else cpu_name(),
        "torch": torch.__version__,
        "recipe": recipe.name,
        "precision": parts.ds.precision,
        "zero_stage": parts.ds.stage,
        "optimizer": optimizer_name(parts.engine),
        "world_size": world.size,
        "lanes": len(parts.lanes),
        "micro_batch_size": batch,
        "steps": steps,
        "step_ms": round(step_s * 1e3, 2),
        "samples_per_s": round(samples * world.size / step_s, 2),
        "cpu_s": round(cpu_s, 3),
        "parts_ms": {part: round(statistics.median(lap[part][0] for lap in laps) * 1e3, 2) for part in laps[0]},
        "parts_cpu_s": {part: round(statistics.median(lap[part][1] for lap in laps), 3) for part in laps[0]},
        "operations": dict(counter.operations),
        "host_waits": dict(counter.host_waits),
        "peak_memory_gib": round(peak_memory, 2),
        "gflop_per_sample": round(flops / 1e9, 1),
        "mfu_pct": round(100 * flops * samples / step_s / peak, 1),
        "peak_tflops": round(peak / 1e12, 2),
        "peak_source": peak_source,
    }


def build_parts(recipe: RunConfig, world: World) -> StepParts:
    """The recipe's task and engine as `pipeline.train.build` makes them, without run folder, loader and validation."""
    from pipeline.data.sampling.lanes import lanes_of_rank
    from pipeline.train import StepParts, start_engine

    run = dataclasses.replace(recipe, init=InitConfig(), validation=ValidationConfig())
    ds = resolve_ds_config(run, world.size)
    task = PRETRAINING.make(run, world, ds.compute_dtype)
    return StepParts(
        run=run,
        world=world,
        ds=ds,
        task=task,
        engine=start_engine(run, ds, task, world),
        lanes=lanes_of_rank(world.rank, world.size, run.batch.num_lanes),
        steps_per_epoch=1,  # what rises over the first epoch has risen
        total_steps=run.total_steps(1_000),
    )


class BenchStep:
    """Takes the trainer's step again and again, on one batch of noise for each lane."""

    def __init__(self, parts: StepParts) -> None:
        self.parts, self.step = parts, 0
        run, on_gpu = parts.run, parts.world.device.type == "cuda"
        lanes = [PRETRAINING.noise(run, run.batch.micro_batch_size) for _ in parts.lanes]
        self.lanes = [lane.pin_memory() if on_gpu else lane for lane in lanes]

    def __call__(self, phase: Callable[[str], None] = lambda part: None) -> None:
        from pipeline.data.loader import StepBatches
        from pipeline.train import train_step

        self.step += 1
        result = train_step(self.parts, StepBatches(step=self.step, epoch=1, lanes=self.lanes, skipped={}), phase)
        if result.check.skipped:
            raise TrainingError(
                "a step on noise was skipped: its losses or its gradient are not finite",
                "lower optim.lr, or try --deepspeed.config zero1_fp32",
            )

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.parts.world.device.type == "cuda":
            torch.cuda.synchronize(self.parts.world.device)


class Stopwatch:
    """Seconds, and seconds of this process's processors, by part; call it with the part that begins."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self._spent: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._part: str | None = None
        self._began = (0.0, 0.0)

    def __call__(self, part: str) -> None:
        self.stop()
        self._part, self._began = part, (time.perf_counter(), time.process_time())

    def stop(self) -> dict[str, list[float]]:
        """End the part that runs; returns all so far."""
        self._synchronize()
        if self._part is not None:
            spent = self._spent[self._part]
            spent[0] += time.perf_counter() - self._began[0]
            spent[1] += time.process_time() - self._began[1]
            self._part = None
        return self._spent


def peak_memory_gib(device: torch.device) -> float:
    """Most device memory allocated in the measured steps; on the CPU, the process's largest resident size."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def cpu_name() -> str:
    """The processor and the threads that torch uses."""
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def table(result: dict[str, Any]) -> str:
    """The result for people: a line for each figure, and a table of the parts."""
    by_part = ("parts_ms", "parts_cpu_s", "operations", "host_waits")
    lines = [f"{name:<18} {value}" for name, value in result.items() if name not in by_part]
    lines.append(f"\n{'part':<12}{'ms':>12}{'cpu s':>10}{'operations':>12}{'host waits':>12}")
    for part in [*result["parts_ms"], "sum"]:
        row = [sum(result[name].values()) if part == "sum" else result[name].get(part, 0) for name in by_part]
        lines.append(f"{part:<12}{row[0]:>12,.2f}{row[1]:>10.3f}{row[2]:>12,}{row[3]:>12,}")
    return "\n".join(lines)
