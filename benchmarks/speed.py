"""Every figure of benchmarks/README.md that needs no GPU, in one command: `python -m benchmarks.speed`.

    python -m benchmarks.speed [--recipe albef_14m] [--micro-batch-size 4] [--only NAME,NAME] [--show FILE]

Runs `pipeline bench` in processes of their own, one after the other: the step in bf16 and in fp32, each in turns with
the baseline, the memory of the step, and the kernels at two sizes. Writes benchmarks/results/DATE-cpu.json after each,
as `make gpu` does for a GPU, and prints the tables of README.md. With --show nothing runs: the tables of a file that
this or `make gpu` wrote. Wants an idle machine, 16 GiB of memory for the base model, and about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu import LOGS, Part, chosen, new_file, run_parts, shown

LIMIT_S = 1_200
"""For one part, on a busy machine."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="albef_14m")
    parser.add_argument("--micro-batch-size", type=int, default=4)
    parser.add_argument("--only", help="names of parts, with commas between them (default: all)")
    parser.add_argument("--show", type=Path, metavar="FILE", help="print the tables of a file of results")
    args = parser.parse_args(argv)
    if args.show:
        print(tables(json.loads(args.show.read_text())["parts"]))
        return 0
    parts = cpu_parts(args.recipe, args.micro_batch_size)
    if args.only:
        parts = chosen(parser, parts, args.only)
    results = new_file("cpu")
    outcomes = run_parts(parts, LOGS / results.stem, results, budget_s=LIMIT_S * len(parts))
    print(f"\n{tables(json.loads(results.read_text())['parts'])}\n\nfigures: {shown(results)}")
    return int(any(outcome.failed for outcome in outcomes))


def cpu_parts(recipe: str, size: int) -> list[Part]:
    """One lane a step in both precisions; the kernels at the step's size, and where their memory matters."""

    def bench(what: str, *flags: str) -> list[str]:
        return [sys.executable, "-m", "pipeline", "bench", what, recipe, "--device", "cpu", "--json", *flags]

    lane = ("--micro-batch-size", str(size))
    words = {
        "step-bf16": bench("step", *lane, "--baseline"),
        "step-fp32": bench("step", *lane, "--baseline", "--deepspeed.config=zero0_fp32"),
        "memory": bench("memory", *lane),
        "kernels": bench("kernels", *lane),
        "kernels-large": bench("kernels", "--micro-batch-size", str(64 * size), "--steps", "3"),
    }
    # idle threads that spin would count as processor time
    quiet = {"OMP_WAIT_POLICY": "PASSIVE"}
    return [Part(name=name, words=words, limit_s=LIMIT_S, environment=quiet) for name, words in words.items()]


def tables(parts: Sequence[Mapping[str, Any]]) -> str:
    """Markdown of all figures, in the order of the parts: steps together, then the rest."""
    found = {part["part"]: part["figures"] for part in parts if part["figures"] and "what" in part["figures"]}
    steps = {name: figures for name, figures in found.items() if figures["what"] == "step"}
    blocks = [step_table(steps)] if steps else []
    blocks += [part_table(name, figures) for name, figures in steps.items()]
    blocks += [memory_table(figures) for figures in found.values() if figures["what"] == "memory"]
    blocks += [kernel_table(figures) for figures in found.values() if figures["what"] == "kernels"]
    return "\n\n".join(blocks)


def step_table(steps: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each step: ratios, rates, counts."""
    head = (
        "step",
        "ratio",
        "spread",
        "cpu s",
        "baseline's",
        "memory ratio",
        "GiB",
        "samples/s",
        "MFU %",
        "ops",
        "waits",
    )
    rows = []
    for name, step in steps.items():
        other = step.get("baseline", {})
        spread = step.get("ratio_to_baseline_spread")
        rows.append(
            (
                name,
                step.get("ratio_to_baseline", "-"),
                f"{spread[0]}-{spread[1]}" if spread else "-",
                step["cpu_s"],
                other.get("cpu_s", "-"),
                step.get("memory_ratio_to_baseline", "-"),
                step["peak_memory_gib"],
                step["samples_per_s"],
                step["mfu_pct"],
                f"{step['kernel_ops_per_step']:,}",
                step["host_waits_per_step"],
            )
        )
    return markdown(head, rows)


def part_table(name: str, step: Mapping[str, Any]) -> str:
    """Where a step's time goes."""
    total = sum(step["parts_cpu_s"].values())
    rows = [
        (part, step["parts_ms"][part], cpu_s, f"{100 * cpu_s / total:.0f}", step["operations"].get(part, 0))
        for part, cpu_s in step["parts_cpu_s"].items()
    ]
    return markdown((name, "ms", "cpu s", "share %", "operations"), rows)


def memory_table(memory: Mapping[str, Any]) -> str:
    """Measured and estimated, in GiB by part."""
    measured, estimated = memory["measured_bytes"], memory["estimated_bytes"]
    rows = [(part, f"{size / 2**30:.2f}", f"{estimated.get(part, 0) / 2**30:.2f}") for part, size in measured.items()]
    sums = [f"{sum(sizes.values()) / 2**30:.2f}" for sizes in (measured, estimated)]
    return markdown(("memory", "measured GiB", "estimate GiB"), [*rows, ("sum", *sums)])


def kernel_table(kernels: Mapping[str, Any]) -> str:
    """Medians and memory of each implementation."""
    rows = []
    for row in kernels["kernels"]:
        sizes = ", ".join(f"{name} {value:,}" for name, value in row["sizes"].items())
        for name, found in row["implementations"].items():
            times = [found[f"{what}_ms"][1] for what in ("forward", "forward_backward")]
            rows.append((row["kernel"], sizes, name, *times, found["forward_backward_mib"]))
    return markdown(("kernel", "sizes", "as", "forward ms", "with backward ms", "MiB above inputs"), rows)


def markdown(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
