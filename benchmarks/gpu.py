"""What `make gpu` runs: the tests that need a GPU, then the benchmarks, each in a process of its own.

    python -m benchmarks.gpu [--rehearse] [--only NAME,NAME]

Time on a GPU is scarce, so no part costs another its turn: each has its own time limit and log, a part that fails or
hangs is stopped and reported, and the table of all parts comes last. Figures go to benchmarks/results/DATE-DEVICE.json,
which is written again after each part. `--rehearse` runs the same parts on the CPU, on tiny models and with kernels in
Triton's interpreter: what then remains unproven is CUDA. Imports the standard library alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "runs" / "gpu"
BUDGET_S = 345.0
"""For all parts together; their limits add up to no more."""
STRETCH = 3
"""A part may take this many times its limit, of time that those before it left over."""
PATIENCE = 10
"""A rehearsal may take this many times as long: two busy processors are not a GPU."""
TAIL_LINES = 25
"""Of a failed part's log, printed and kept with the figures."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A command, and how long it may take."""

    name: str
    words: Sequence[str]
    """The command; empty if it cannot run here, and `missing` says why."""
    limit_s: float
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


@dataclass(kw_only=True)
class Outcome:
    """What became of a part."""

    part: str
    seconds: float = 0.0
    cpu_s: float = 0.0
    """Processor seconds of its processes: on a busy machine what it needs."""
    result: str = "ok"
    log: str = ""
    figures: dict[str, Any] | None = None
    """The last JSON object that it printed on a line."""
    tail: str = ""
    """The end of the log if it failed."""

    @property
    def failed(self) -> bool:
        return not self.result.startswith(("ok", "left out"))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, on tiny models, into runs/gpu")
    parser.add_argument("--only", help="names of parts, with commas between them (default: all)")
    args = parser.parse_args(argv)
    parts = rehearsal_parts() if args.rehearse else gpu_parts()
    if args.only:
        parts = [parts[0], *(part for part in chosen(parser, parts, args.only) if part is not parts[0])]
    logs = LOGS / datetime.now(UTC).strftime("%Y-%m-%d_%H-%M-%S")
    budget_s = BUDGET_S * (PATIENCE if args.rehearse else 1)
    machine, *others = parts
    first = run_part(machine, logs, machine.limit_s * STRETCH)
    if not args.rehearse and first.figures and first.figures["cuda"] is None:
        print("error: torch sees no GPU", file=sys.stderr)
        print("hint: nvidia-smi shows the driver; make gpu REHEARSE=1 runs the same parts on the CPU", file=sys.stderr)
        return 2
    device = str((first.figures or {}).get("device", "unknown")).lower().replace(" ", "-")
    results = LOGS / "rehearsal.json" if args.rehearse else new_file(device)
    outcomes = run_parts(others, logs, results, budget_s=budget_s - first.seconds, before=[first])
    print(f"\n{table(outcomes)}\n\nfigures: {shown(results)}", flush=True)
    return int(any(outcome.failed for outcome in outcomes))


def chosen(parser: argparse.ArgumentParser, parts: Sequence[Part], only: str) -> list[Part]:
    """The parts that `--only` names, in their order; ends the program when one is unknown."""
    names = set(only.split(","))
    if unknown := names - {part.name for part in parts}:
        parser.error(f"--only {', '.join(sorted(unknown))}: the parts are {', '.join(part.name for part in parts)}")
    return [part for part in parts if part.name in names]


def gpu_parts() -> list[Part]:
    """In order of worth: what comes late may find no time left, but has all that the others left.

    Limits are for 16 idle processors and a GPU that nothing has warmed up. A rehearsal measures what does not depend on
    the GPU: importing torch, DeepSpeed and transformers takes up to 14 processor seconds of each process.
    """

    def bench(what: str) -> tuple[str, ...]:
        return (sys.executable, "-m", "pipeline", "bench", what, "albef_14m", "--device", "cuda", "--json")

    lane = ("--micro-batch-size", "64")  # one lane: what each of 8 GPUs has to do of a step of the recipe
    workers = min(8, len(os.sched_getaffinity(0)))
    profile = (sys.executable, "-m", "benchmarks.step_profile", "albef_14m", "--device", "cuda")
    lanes = ("--batch.global_batch_size=512", "--steps", "5")
    return [
        # 4 to import torch, the rest to start CUDA and nvidia-smi
        Part(name="environment", words=(sys.executable, "-m", "benchmarks.environment"), limit_s=10),
        # Triton compiles every case of the kernels' tests
        Part(name="kernels", words=tests("kernels", workers=min(4, workers)), limit_s=60),
        # one start for both files, whose tests take 3 s on a CPU
        Part(name="parity", words=tests("parity", "model"), limit_s=25),
        # a start, the base model's random weights, ten steps or so
        Part(name="step", words=(*bench("step"), *lane), limit_s=25),
        # 8 workers share about 30 starts; the longest test has three in a row and four exports and reads
        Part(name="training", words=tests("training", workers=workers), limit_s=50),
        # a start without DeepSpeed, Triton's compiler, 1.4 GB of scores for the plain formula
        Part(name="bench-kernels", words=(*bench("kernels"), "--micro-batch-size", "1024"), limit_s=20),
        # two starts, one after the other, and the baseline's fp32 steps of half a second
        Part(name="step-baseline", words=(*bench("step"), *lane, "--baseline"), limit_s=30),
        # a start, the profiler's, and reading a trace of 50,000 events
        Part(name="profile", words=(*profile, *lane), limit_s=25),
        # two starts, from files that the parts before have read
        Part(name="step-autocast", words=(*bench("step"), *lane, "--baseline", "--autocast"), limit_s=20),
        # a start and 13 steps of 8 lanes
        Part(name="step-8-lanes", words=(*bench("step"), *lane, *lanes), limit_s=20),
        # two starts and torch's compiler for a layer of each kind, twice; counts on what others left
        Part(name="compiled", words=tests("compiled", workers=min(2, workers)), limit_s=20),
        # torch's compiler for the base model: a minute or more, which others must have left
        Part(name="step-compiled", words=(*bench("step"), *lane, "--model.compile=true"), limit_s=30),
        sanitizer_part(),
    ]


def sanitizer_part() -> Part:
    """One case of a kernel under compute-sanitizer, which reports accesses out of bounds: tens of times slower."""
    found = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    return Part(
        name="sanitizer",
        words=[
            *(found or "compute-sanitizer", "--tool", "memcheck", "--error-exitcode", "9"),
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/albef/kernels/check_itc.py"),
            *("-k", "test_errors and odd"),
        ],
        limit_s=10,  # one case, and what the others left
        environment={"KERNEL_DEVICE": "cuda", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        missing="" if found else "compute-sanitizer is not installed",
    )


def rehearsal_parts() -> list[Part]:
    """The same commands on the CPU, on a tiny model; benchmarks measure one step."""
    hidden = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "GPU_TESTS_DEVICE": "cpu"}
    return [
        Part(
            name=part.name,
            words=[word for each in part.words for word in on_cpu(each)],
            limit_s=PATIENCE * part.limit_s,
            environment={**part.environment, **hidden},
            missing="it watches a GPU" if part.name == "sanitizer" else part.missing,
        )
        for part in gpu_parts()
    ]


def on_cpu(word: str) -> list[str]:
    """A word of a part's command, as it is in a rehearsal."""
    tiny = ["--model.size=tiny", "--objective.queue_size=64"]
    batch = {"64": ["2"], "1024": ["2"], "--batch.global_batch_size=512": ["--batch.global_batch_size=16"]}
    steps = {"--json": [word, "--steps", "1"], "5": ["1"]}
    layers = [f"--model.{name}_depth=1" for name in ("vision", "text", "fusion")]  # the C++ compiler is slow
    return {"cuda": ["cpu"], "albef_14m": [word, *tiny], "--model.compile=true": [word, *layers], **batch, **steps}.get(
        word, [word]
    )


def tests(*names: str, workers: int = 0) -> list[str]:
    """The tests of files of tests/gpu, in `workers` processes beside this one, or 0: in this one."""
    flags = ["-m", "gpu", "--durations=5", "-p", "no:cacheprovider", "--numprocesses", str(workers)]
    files = [f"tests/gpu/test_{name}.py" for name in names]
    return [sys.executable, "-m", "pytest", "--quiet", *flags, *files]


def run_parts(
    parts: Sequence[Part], logs: Path, results: Path, *, budget_s: float, before: Sequence[Outcome] = ()
) -> list[Outcome]:
    """Run one after the other, each within its limit and all within the budget; keep the figures after each.

    What a part leaves of its limit, those after it may use.

    Args:
        logs: the folder of their logs.
        results: the JSON file of all outcomes.
        before: outcomes to list in front.

    Returns: an outcome for each part, those of `before` first.
    """
    outcomes, began = list(before), time.monotonic()
    for index, part in enumerate(parts):
        left_s = budget_s - (time.monotonic() - began)
        others_s = sum(later.limit_s for later in parts[index + 1 :] if not later.missing)
        limit_s = min(left_s, max(part.limit_s, min(STRETCH * part.limit_s, left_s - others_s)))
        outcomes.append(run_part(part, logs, limit_s))
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps({"parts": [asdict(outcome) for outcome in outcomes]}, indent=2) + "\n")
    return outcomes


def run_part(part: Part, logs: Path, limit_s: float) -> Outcome:
    """Run one for `limit_s` at most; its output goes to its log, and the end of that to the terminal if it fails."""
    outcome = Outcome(part=part.name)
    if part.missing or limit_s < 1:
        outcome.result = f"left out: {part.missing}" if part.missing else "not started: no time left"
        return outcome
    print(f"== {part.name}: {' '.join(part.words)}", flush=True)
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{part.name}.log"
    outcome.log, began, cpu_began = shown(log), time.monotonic(), children_cpu_s()
    with log.open("w") as file:
        process = subprocess.Popen(
            part.words,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **part.environment},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what it started can be stopped with it
        )
        try:
            code = process.wait(limit_s)
            outcome.result = "ok" if code == 0 else f"failed: exit code {code}"
        except subprocess.TimeoutExpired:
            outcome.result = f"failed: stopped after {limit_s:.1f} s"
        finally:
            stop(process)
    outcome.seconds = round(time.monotonic() - began, 1)
    outcome.cpu_s = round(children_cpu_s() - cpu_began, 1)
    lines = log.read_text(errors="replace").splitlines()
    outcome.figures = last_object(lines)
    if outcome.failed:
        outcome.tail = "\n".join(lines[-TAIL_LINES:])
        print(outcome.tail, flush=True)
    print(f"== {part.name}: {outcome.result}, {outcome.seconds:.1f} s", flush=True)
    return outcome


def children_cpu_s() -> float:
    """Processor seconds, user and system, of all processes that ended as children of this one, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def stop(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a part's session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # nothing is left
        return
    process.wait()


def last_object(lines: Sequence[str]) -> dict[str, Any] | None:
    """The last line that is a JSON object."""
    for line in reversed(lines):
        if line.startswith("{"):
            try:
                found: dict[str, Any] = json.loads(line)
            except json.JSONDecodeError:
                continue
            return found
    return None


def table(outcomes: Sequence[Outcome]) -> str:
    """A row for each part: seconds on the clock, processor seconds, result, log; and the sums."""
    rows: list[tuple[str, ...]] = [("part", "seconds", "cpu s", "result", "log")]
    for one in outcomes:
        rows.append((one.part, f"{one.seconds:.1f}", f"{one.cpu_s:.1f}", one.result, one.log))
    sums = [f"{sum(times):.1f}" for times in zip(*((one.seconds, one.cpu_s) for one in outcomes), strict=True)]
    rows.append(("sum", *sums, f"{sum(outcome.failed for outcome in outcomes)} failed", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        f"{part:<{widths[0]}}  {seconds:>{widths[1]}}  {cpu_s:>{widths[2]}}  {result:<{widths[3]}}  {log}".rstrip()
        for part, seconds, cpu_s, result, log in rows
    )


def new_file(device: str) -> Path:
    """benchmarks/results/DATE-DEVICE.json, or with a number where that exists."""
    stem = f"{datetime.now(UTC).date().isoformat()}-{device}"
    folder = ROOT / "benchmarks" / "results"
    names = [f"{stem}.json", *(f"{stem}-{number}.json" for number in range(2, 100))]
    return next(folder / name for name in names if not (folder / name).exists())


def shown(path: Path) -> str:
    """A path as a reader in the project's root would type it."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


if __name__ == "__main__":
    sys.exit(main())
