"""Where the peak memory of a step goes, and the planner's estimate beside it: `bench memory RECIPE`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config.run_config import RunConfig
from pipeline.engine.distributed import World
from pipeline.planning.bench_engine import BenchStep, build_parts
from pipeline.planning.memory import estimate_memory
from pipeline.planning.timing import GIB, peak_memory, reset_peak, resident
from pipeline.tasks.pretraining.maker import PRETRAINING


@dataclass(frozen=True, kw_only=True)
class MemorySplit:
    """The peak of some steps, in bytes."""

    peak: int
    parts: Mapping[str, int]
    """By name: what is kept from step to step; `process`, what a CPU process had before it built anything; and
    `activations`, all else: what autograd keeps, and the temporaries of the largest moment."""


def split_memory(peak: int, before: int, states: Mapping[str, int]) -> MemorySplit:
    """Split a peak.

    Args:
        before: the process's resident size before anything was built; 0 on a GPU, whose counter starts empty.
        states: bytes by name.
    """
    process = {"process": before} if before else {}
    return MemorySplit(peak=peak, parts={**states, **process, "activations": peak - before - sum(states.values())})


def measure_memory(recipe: RunConfig, world: World) -> dict[str, Any]:
    """Measured peak of a step and the planner's estimate, by part; a collective."""
    import pipeline.train  # noqa: F401  # DeepSpeed's own memory is the process's

    before = resident("VmRSS") if world.device.type == "cpu" else 0
    parts = build_parts(recipe, world)
    step = BenchStep(parts)
    step()  # makes the optimizer's state, so the next one is the largest
    reset_peak(world.device)
    step()
    step.synchronize()
    measured = split_memory(peak_memory(world.device), before, step.states())
    estimate = estimate_memory(parts.run, parts.ds, PRETRAINING, world.size)
    return {
        "recipe": recipe.name,
        "precision": parts.ds.precision,
        "zero_stage": parts.ds.stage,
        "world_size": world.size,
        "micro_batch_size": recipe.batch.micro_batch_size,
        "measured_bytes": dict(measured.parts),
        "estimated_bytes": dict(estimate.parts),
        "peak_memory_gib": round(measured.peak / GIB, 2),
        "estimated_peak_gib": round(estimate.total / GIB, 2),
    }
