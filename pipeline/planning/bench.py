"""`pipeline bench`: what a recipe's training step costs on this device, its memory, and what the kernels cost."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from albef.errors import ConfigError
from pipeline.config.flags import add_recipe_argument
from pipeline.config.resolve import load_config
from pipeline.config.run_config import DEFAULT_TASK, PretrainingRun
from pipeline.config.sections import BatchConfig
from pipeline.engine.distributed import World, local_device
from pipeline.planning.timing import GIB
from pipeline.run.folder import environment
from pipeline.run.logs import print_answer

CPU_BATCH = BatchConfig(global_batch_size=8, micro_batch_size=4)
"""On a CPU, where the recipe's own batch would take minutes a step."""
STEPS = {"cuda": 20, "cpu": 3}
BY_PART = ("parts_ms", "parts_cpu_s", "operations", "host_waits")
"""Results of `bench step` by part of the step: the columns of its table."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `bench`, beside every key of the recipe."""
    parser.add_argument(
        "what",
        choices=["step", "memory", "kernels"],
        help="step: one training step; memory: where its peak memory goes, beside the estimate of `check`; "
        "kernels: each fused kernel beside the plain formula",
    )
    add_recipe_argument(parser)
    parser.usage = f"{parser.prog} {{step,memory,kernels}} RECIPE [flags] [--KEY VALUE ...]"
    parser.add_argument(
        "--device",
        choices=["auto", "cpu", "cuda"],
        default="auto",
        help="auto: cuda where there is one (default). On the CPU the batch is two lanes of 4 samples, "
        "unless --micro-batch-size or a key of `batch` is given",
    )
    parser.add_argument(
        "--micro-batch-size",
        type=int,
        metavar="N",
        help="a lane of N samples, and one lane a step unless --batch.global_batch_size gives more",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="measured steps (default: 20 on CUDA, 3 on the CPU)")
    parser.add_argument(
        "--baseline",
        action="store_true",
        help="with step: take turns with the plain step of benchmarks/baseline.py, one lane a step, and print ratios",
    )
    parser.add_argument(
        "--autocast",
        action="store_true",
        help="with --baseline: the plain step under torch.autocast to bf16, instead of fp32",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    device = local_device(args.device)
    recipe = with_batch(
        load_config(args.recipe, batch_keys(args), task=DEFAULT_TASK, other_flags=args.flags), args, device
    )
    check_flags(args, recipe)
    steps = STEPS[device.type] if args.steps is None else args.steps
    if steps < 1:
        raise ConfigError(f"--steps {steps} measures nothing", "give 1 or more")
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    from pipeline.engine import distributed

    world = distributed.init()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # DeepSpeed prints notes of its own
            result = about(args.what, world) | measure(args, recipe, world, steps)
        if world.is_main:
            print_answer(json.dumps(result) if args.json else table(result))
    finally:
        distributed.shutdown()
    return 0


def batch_keys(args: argparse.Namespace) -> list[str]:
    """The recipe's keys as given, and what --micro-batch-size stands for."""
    if args.micro_batch_size is None:
        return list(args.overrides)
    keys = [f"--batch.micro_batch_size={args.micro_batch_size}"]
    if not any(word.startswith("--batch.global_batch_size") for word in args.overrides):
        keys.append(f"--batch.global_batch_size={args.micro_batch_size}")
    return [*args.overrides, *keys]


def with_batch(recipe: PretrainingRun, args: argparse.Namespace, device: torch.device) -> PretrainingRun:
    """The recipe, on a CPU with a small batch unless one is given."""
    given = args.micro_batch_size is not None or any(word.startswith("--batch.") for word in args.overrides)
    return recipe if given or device.type != "cpu" else dataclasses.replace(recipe, batch=CPU_BATCH)


def check_flags(args: argparse.Namespace, recipe: PretrainingRun) -> None:
    """Raises: ConfigError for flags that do not go together, or a baseline that cannot be taken."""
    if args.autocast and not args.baseline:
        raise ConfigError("--autocast is the baseline's", "give --baseline as well, or leave it out")
    if not args.baseline:
        return
    if args.what != "step":
        raise ConfigError(f"`bench {args.what}` has no baseline", "leave --baseline out, or use `bench step`")
    if (ranks := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise ConfigError(f"--baseline takes one rank, here are {ranks}", "start it without torchrun or srun")
    from pipeline.planning.bench_baseline import check_baseline

    check_baseline(recipe)


def measure(args: argparse.Namespace, recipe: PretrainingRun, world: World, steps: int) -> dict[str, Any]:
    """What the command measures; a collective."""
    if args.what == "kernels":
        from pipeline.planning.bench_kernels import measure_kernels

        return measure_kernels(recipe, world, steps=steps)
    if args.what == "memory":
        from pipeline.planning.bench_memory import measure_memory

        return measure_memory(recipe, world)
    from pipeline.planning.bench_step import measure_step

    return measure_step(recipe, world, steps=steps, baseline=args.baseline, autocast=args.autocast)


def about(what: str, world: World) -> dict[str, Any]:
    """When, where and with which code a result was measured."""
    found = environment(world)
    on_gpu = world.device.type == "cuda"
    return {
        "what": what,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(world.device) if on_gpu else cpu_name(),
        "load_average": [round(value, 1) for value in os.getloadavg()],
        "commit": found["commit"],
        "uncommitted_changes": found["uncommitted_changes"],
        "python": found["python"],
        "torch": torch.__version__,
        "packages": found["packages"],
    }


def cpu_name() -> str:
    """The processor and the threads that torch uses."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(names or [platform.machine()])[0]}, {torch.get_num_threads()} threads"


def table(result: Mapping[str, Any]) -> str:
    """The result for people: a line for each figure, and a table of what is by part."""
    lines = []
    for name, value in result.items():
        if name not in (*BY_PART, "measured_bytes", "estimated_bytes", "kernels"):
            shown = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else value
            lines.append(f"{name:<24} {shown}")
    if "parts_ms" in result:
        lines.append(f"\n{'part':<12}{'ms':>12}{'cpu s':>10}{'operations':>12}{'host waits':>12}")
        for part in [*result["parts_ms"], "sum"]:
            row = cells(result, BY_PART, part)
            lines.append(f"{part:<12}{row[0]:>12,.2f}{row[1]:>10.3f}{row[2]:>12,}{row[3]:>12,}")
    if "measured_bytes" in result:
        columns = ("measured_bytes", "estimated_bytes")
        lines.append(f"\n{'part':<12}{'measured GiB':>14}{'estimate GiB':>14}")
        for part in [*result["measured_bytes"], "sum"]:
            lines.append(f"{part:<12}" + "".join(f"{value / GIB:>14.3f}" for value in cells(result, columns, part)))
    for row in result.get("kernels", ()):
        sizes = ", ".join(f"{name} {value:,}" for name, value in row["sizes"].items())
        lines.append(f"\n{row['kernel']}: {sizes}")
        lines.append(f"{'':<12}{'forward ms':>12}{'MiB':>10}{'with backward ms':>18}{'MiB':>10}")
        for name, found in row["implementations"].items():
            forward, backward = (f"{found[f'{what}_ms'][1]:.3f}" for what in ("forward", "forward_backward"))
            memory, all_memory = (f"{found[f'{what}_mib']:,.2f}" for what in ("forward", "forward_backward"))
            lines.append(f"{name:<12}{forward:>12}{memory:>10}{backward:>18}{all_memory:>10}")
    return "\n".join(lines)


def cells(result: Mapping[str, Any], columns: Sequence[str], part: str) -> list[Any]:
    """A row of a table by part; "sum" is of all parts."""
    return [sum(result[name].values()) if part == "sum" else result[name].get(part, 0) for name in columns]
