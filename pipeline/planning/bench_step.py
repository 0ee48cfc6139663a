"""Measures the trainer's own step on noise: its time in turns with the baseline's, its parts, counts and memory.

The engine is built and the step is taken by the code that trains (`pipeline/train.py`), from random weights; the loader
is left out. The step is taken undisturbed for samples/s and processor seconds, then with a stopwatch between its parts,
then once with its operations counted. FLOPs are counted (`flops.py`), so MFU follows.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from pipeline.config.run_config import RunConfig
from pipeline.engine.distributed import World
from pipeline.engine.optim import optimizer_name
from pipeline.planning.bench_baseline import Baseline
from pipeline.planning.bench_engine import BenchStep, build_parts
from pipeline.planning.bench_memory import MemorySplit, split_memory
from pipeline.planning.flops import flops_by_part, needed_flops, peak_flops
from pipeline.planning.operations import StepCounter
from pipeline.planning.timing import GIB, StepTime, StepTimer, Stopwatch, peak_memory, reset_peak, resident, summary
from pipeline.tasks.pretraining.maker import PRETRAINING

if TYPE_CHECKING:
    from pipeline.train import StepParts

WARM_UP = 2
"""Steps before the measured ones: allocations, and the optimizer's state."""


def measure_step(
    recipe: RunConfig, world: World, *, steps: int, baseline: bool = False, autocast: bool = False
) -> dict[str, Any]:
    """Take the recipe's training step and report what it costs this rank; a collective.

    Times are medians of a step, with the least and the most; memory is in GiB.

    Args:
        baseline: take turns with the plain step, in a process of its own, on the same batch.
        autocast: the baseline's arithmetic in bf16 by torch.autocast.

    Raises: TrainingError when a step is skipped: it costs less than one that is taken.
    """
    import pipeline.train  # noqa: F401  # DeepSpeed's own memory is the process's

    before = resident("VmRSS") if world.device.type == "cpu" else 0
    parts = build_parts(recipe, world)
    step = BenchStep(parts)
    with ExitStack() as leaving:
        other = None
        if baseline:
            settings = Baseline(recipe, PRETRAINING, step.lanes[0], device=world.device, autocast=autocast)
            other = leaving.enter_context(settings)
        ours, theirs = take_turns(step, other, steps)
        peak, peak_of_theirs = peak_memory(world.device), other.peak_memory() if other is not None else 0
    memory = split_memory(peak, before, step.states())
    laps = []
    for _ in range(steps):
        stopwatch = Stopwatch(step.synchronize)
        step(stopwatch)
        laps.append(stopwatch.stop())
    # no operation inside of a compiled graph can be seen
    with torch.compiler.set_stance("force_eager"), StepCounter() as counter:
        step(counter)
    result = facts(parts) | {"steps": steps} | figures(parts, ours, memory)
    result |= {
        "parts_ms": {part: round(statistics.median(lap[part][0] for lap in laps) * 1e3, 2) for part in laps[0]},
        "parts_cpu_s": {part: round(statistics.median(lap[part][1] for lap in laps), 3) for part in laps[0]},
        "operations": dict(counter.operations),
        "host_waits": dict(counter.host_waits),
        "kernel_ops_per_step": counter.operations.total(),
        "host_waits_per_step": counter.host_waits.total(),
    }
    if baseline:
        result |= comparison(world.device, ours, theirs, memory.peak, peak_of_theirs, autocast=autocast)
    return result


def take_turns(step: BenchStep, other: Baseline | None, steps: int) -> tuple[list[StepTime], list[StepTime]]:
    """Warm both up, then a step of ours, one of theirs, and so on; only one process works at a time."""
    for _ in range(WARM_UP):
        step()
        if other is not None:
            step.synchronize()
            other.step()
    reset_peak(step.device)
    timer, theirs = StepTimer(step.device), []
    for _ in range(steps):
        timer(step)
        if other is not None:
            step.synchronize()
            theirs.append(other.step())
    return timer.times(), theirs


def facts(parts: StepParts) -> dict[str, Any]:
    """What is measured."""
    return {
        "recipe": parts.run.name,
        "precision": parts.ds.precision,
        "zero_stage": parts.ds.stage,
        "optimizer": optimizer_name(parts.engine),
        "world_size": parts.world.size,
        "lanes": len(parts.lanes),
        "micro_batch_size": parts.run.batch.micro_batch_size,
    }


def figures(parts: StepParts, times: list[StepTime], memory: MemorySplit) -> dict[str, Any]:
    """Time, memory and arithmetic of the undisturbed steps."""
    run, world, dtype = parts.run, parts.world, parts.ds.compute_dtype
    batch = run.batch.micro_batch_size
    samples = batch * len(parts.lanes)
    seconds = statistics.median(time.seconds for time in times)
    flops = flops_by_part(PRETRAINING.sketch(run, dtype), PRETRAINING.noise(run, batch))
    needed = needed_flops(run, PRETRAINING, dtype)
    peak, peak_source = peak_flops(world.device, dtype)
    return {
        **summaries(times),
        "samples_per_s": round(samples * world.size / seconds, 2),
        "peak_memory_gib": round(memory.peak / GIB, 2),
        "memory_gib": {part: round(size / GIB, 3) for part, size in memory.parts.items()},
        "gflop_per_sample": round(sum(flops.values()) / 1e9, 1),
        "gflop_by_part": {part: round(value / 1e9, 1) for part, value in flops.items()},
        "needed_gflop_per_sample": round(needed / 1e9, 1),
        "mfu_pct": round(100 * needed * samples / seconds / peak, 1),
        "peak_tflops": round(peak / 1e12, 2),
        "peak_source": peak_source,
    }


def summaries(times: list[StepTime]) -> dict[str, Any]:
    """Medians of both times, and their spread."""
    step_ms, step_ms_spread = summary([time.seconds * 1e3 for time in times], 2)
    cpu_s, cpu_s_spread = summary([time.cpu_s for time in times], 3)
    return {"step_ms": step_ms, "step_ms_spread": step_ms_spread, "cpu_s": cpu_s, "cpu_s_spread": cpu_s_spread}


def comparison(
    device: torch.device,
    ours: list[StepTime],
    theirs: list[StepTime],
    peak: int,
    their_peak: int,
    *,
    autocast: bool,
) -> dict[str, Any]:
    """The baseline's figures and the two ratios: by processor seconds on a CPU, by the device's events on a GPU."""
    cost = (lambda time: time.seconds) if device.type == "cuda" else (lambda time: time.cpu_s)
    pairs = [cost(their) / cost(our) for our, their in zip(ours, theirs, strict=True)]
    ratio = statistics.median(map(cost, theirs)) / statistics.median(map(cost, ours))
    return {
        "ratio_to_baseline": round(ratio, 3),
        "ratio_to_baseline_spread": summary(pairs, 3)[1],
        "memory_ratio_to_baseline": round(peak / their_peak, 3),
        "baseline": {
            "precision": "fp32 under torch.autocast to bf16" if autocast else "fp32",
            **summaries(theirs),
            "peak_memory_gib": round(their_peak / GIB, 2),
        },
    }
