"""What each fused kernel costs beside the plain formula: `bench kernels`."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from pipeline.config.run_config import PretrainingRun
from pipeline.engine.distributed import World
from pipeline.engine.ds_config import resolve_ds_config
from pipeline.planning.timing import StepTimer
from pipeline.tasks.pretraining.kernel_cases import CASES, KernelCase

WARM_UP = 2
"""Calls before the measured ones: Triton compiles, torch chooses algorithms."""


def measure_kernels(recipe: PretrainingRun, world: World, *, steps: int) -> dict[str, Any]:
    """Milliseconds [20%, median, 80%] and peak memory above the inputs of every case, at the recipe's sizes.

    The implementations take turns, call by call. Triton is left out on a CPU.
    """
    dtype = resolve_ds_config(recipe, world.size).compute_dtype
    torch.manual_seed(0)
    rows = []
    for name, make in CASES.items():
        case = make(recipe, world.device, dtype)
        found = measure_case(case, world.device, steps)
        rows.append({"kernel": name, "sizes": dict(case.sizes), "implementations": found})
        del case  # before the next one's inputs
    return {"recipe": recipe.name, "precision": str(dtype).removeprefix("torch."), "steps": steps, "kernels": rows}


def measure_case(case: KernelCase, device: torch.device, steps: int) -> dict[str, Any]:
    """Figures by implementation, of the forward and of forward and backward together."""
    names = [name for name in case.run if name != "triton" or device.type == "cuda"]
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name in names:
        calls[name, "forward"] = _without_gradient(case.run[name])
        calls[name, "forward_backward"] = _with_gradient(case, name)
    for _ in range(WARM_UP):
        for call in calls.values():
            call()
    timers = {key: StepTimer(device) for key in calls}
    for _ in range(steps):
        for key, call in calls.items():
            timers[key](call)
    result: dict[str, Any] = {name: {} for name in names}
    for (name, what), call in calls.items():
        milliseconds = [time.seconds * 1e3 for time in timers[name, what].times()]
        result[name][f"{what}_ms"] = [round(value, 3) for value in percentiles(milliseconds)]
        result[name][f"{what}_mib"] = round(peak_above(call, device) / 2**20, 2)
    return result


def _without_gradient(call: Callable[[], Tensor]) -> Callable[[], object]:
    @torch.no_grad()
    def forward() -> object:
        return call()

    return forward


def _with_gradient(case: KernelCase, name: str) -> Callable[[], object]:
    return lambda: torch.autograd.grad(case.run[name](), case.inputs)


def percentiles(values: list[float]) -> tuple[float, float, float]:
    """The 20th, 50th and 80th; of a single value, itself."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return fifths[0], statistics.median(values), fifths[3]


def peak_above(call: Callable[[], object], device: torch.device) -> int:
    """Bytes: most memory that tensors take during a call, above what they took before; its result counts."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(file))
        events = [event for event in json.loads(file.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event["args"]["Ev Idx"]):
        allocated += event["args"]["Bytes"]
        peak = max(peak, allocated)
    return peak
