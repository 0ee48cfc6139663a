"""Where the device's time goes in a training step, by kind of work: `python -m benchmarks.step_profile RECIPE`.

    python -m benchmarks.step_profile albef_14m [--device cuda] [--micro-batch-size 64] [--steps 5] [--KEY VALUE ...]
    python -m benchmarks.step_profile --trace runs/NAME/profile/steps_100_105.pt.trace.json.gz

Takes the trainer's step on noise, as `pipeline bench step` does, records it as `logging.profile` does, and prints one
JSON object about the trace: milliseconds a step by kind (matrix products, attention, elementwise, ...) and by part of
the step, what is left idle, the kernels with the most time. With --trace nothing runs: the trace of a run is
summarised. A device's kernels are what counts on a GPU; on a CPU it is each operation's own time, without that of the
operations it calls. The profiler itself slows the host, so idle time is an upper bound.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

TOP = 15
"""Kernels that are listed."""
WARM_UP = 3
PARTS = ("forward", "backward", "check", "optimizer", "advance")
KINDS = (
    ("compiled", r"^triton_"),
    ("ours", r"^(lse|mean|sums|merge|logits_gradient|words_gradient|states_gradient|move)_kernel"),
    ("attention", r"flash|fmha|sdpa|attention"),
    ("matrix products", r"gemm|nvjet|cublas|cutlass|xmma|splitk|::(mm|bmm|addmm|baddbmm|linear|matmul|dot)$"),
    ("optimizer", r"adam"),
    ("collectives", r"nccl|c10d|gloo"),
    ("copies and casts", r"memcpy|memset|copy|::(_to_copy|to|fill_|zero_|cat|clone|contiguous|stack)$|fillfunctor"),
    ("dropout", r"dropout|bernoulli|philox|uniform"),
    ("norms and softmax", r"layer_?norm|softmax|gammabeta|computegradinput|rowwisemoments"),
    ("gather and scatter", r"index|gather|scatter|embedding|sort|search|nonzero"),
    ("reductions", r"reduce|::(sum|mean|any|all|max|min|amax)$"),
    ("convolution", r"conv"),
    ("elementwise", r"elementwise|multi_tensor|foreach|gelu|::(add|sub|mul|div|lerp|where|exp|pow|neg|clamp)"),
)
"""Kinds of work, by the names of kernels and operations; the first that matches. torch calls a CUDA kernel by what it
computes, libraries by their own names: nvjet and xmma are cuBLAS's."""


class Span(NamedTuple):
    """A stretch of time, in microseconds."""

    name: str
    begin: float
    end: float
    own: float
    """Without what lies inside."""
    asked: float
    """When the host asked for it: on a GPU before it begins."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="albef_14m")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="summarise this trace of `logging.profile`")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--micro-batch-size", type=int, default=64, help="samples of a step, one lane")
    parser.add_argument("--steps", type=int, default=5)
    args, keys = parser.parse_known_args(argv)
    if args.trace:
        print(json.dumps(summary(read_events(args.trace))))
        return 0
    if args.steps < 1:
        parser.error(f"--steps {args.steps} records nothing")
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory() as folder:
        os.environ["DS_ACCELERATOR"] = args.device
        trace = record(args.recipe, keys, batch=args.micro_batch_size, steps=args.steps, folder=Path(folder))
        found = summary(read_events(trace))
    print(json.dumps({"recipe": args.recipe, "micro_batch_size": args.micro_batch_size, **found}))
    return 0


def record(recipe: str, keys: Sequence[str], *, batch: int, steps: int, folder: Path) -> Path:
    """Take steps on noise and write the trace of the last `steps` of them."""
    from pipeline.config.resolve import load_config
    from pipeline.engine import distributed
    from pipeline.planning.bench_engine import BenchStep, build_parts
    from pipeline.run.step_trace import StepTrace

    sizes = [f"--batch.micro_batch_size={batch}", f"--batch.global_batch_size={batch}"]
    world = distributed.init()
    try:
        step = BenchStep(build_parts(load_config(recipe, [*sizes, *keys]), world))
        for _ in range(WARM_UP):
            step()
        step.synchronize()
        trace = StepTrace(range(WARM_UP, WARM_UP + steps), folder)
        for number in range(WARM_UP, WARM_UP + steps):
            phase = trace.begin(number, lambda part: None)
            step(phase)
            if number == WARM_UP + steps - 1:
                step.synchronize()  # or the trace would end before the device's work
            trace.end(number)
    finally:
        distributed.shutdown()
    [file] = folder.iterdir()
    return file


def read_events(trace: Path) -> list[dict[str, Any]]:
    """The finished spans of a trace file."""
    data = trace.read_bytes()
    events = json.loads(gzip.decompress(data) if trace.suffix == ".gz" else data)["traceEvents"]
    return [event for event in events if event.get("ph") == "X"]


def summary(events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What the recorded steps spent where, in milliseconds a step.

    Args:
        events: of a trace that torch's profiler wrote, with the spans that `StepTrace` adds.

    Returns: `device_ms` is the sum of kernels, `idle_ms` what of the steps has none, `by_kind_ms` and `by_part_ms`
    divide `device_ms` (a part that runs no kernels is left out), `top` has the kernels with the most time.
    """
    spans = [event for event in events if event.get("cat") == "user_annotation"]
    steps = [event for event in spans if event["name"].startswith("ProfilerStep#")]
    assert steps, "the trace has no step of `logging.profile`"
    count, work = len(steps), kernels(events) or operations(events)
    first = min(event["ts"] for event in steps)
    last = max(*(event["ts"] + event["dur"] for event in steps), *(span.end for span in work))
    parts = [(event["ts"], event["ts"] + event["dur"], event["name"]) for event in spans if event["name"] in PARTS]
    kinds: dict[str, float] = defaultdict(float)
    by_part: dict[str, float] = defaultdict(float)
    names: dict[str, list[float]] = defaultdict(list)
    for span in work:
        kinds[kind_of(span.name)] += span.own
        by_part[next((name for begin, end, name in parts if begin <= span.asked < end), "elsewhere")] += span.own
        names[span.name].append(span.own)
    total, length = sum(kinds.values()), last - first

    def ms(microseconds: float) -> float:
        return round(microseconds / 1e3 / count, 3)

    ranked = sorted(kinds.items(), key=lambda item: -item[1])
    longest = sorted(names.items(), key=lambda item: -sum(item[1]))[:TOP]
    return {
        "what": "profile",
        "steps": count,
        "step_ms": ms(length),
        "device_ms": ms(total),
        "idle_ms": ms(length - busy(work)),
        "idle_pct": round(100 * (1 - busy(work) / length), 1),
        "calls_per_step": round(len(work) / count, 1),
        "by_kind_ms": {kind: ms(spent) for kind, spent in ranked},
        "by_kind_pct": {kind: round(100 * spent / total, 1) for kind, spent in ranked},
        "by_part_ms": {part: ms(by_part[part]) for part in (*PARTS, "elsewhere") if by_part[part]},
        "top": [
            {"name": name[:120], "kind": kind_of(name), "ms": ms(sum(spent)), "calls": round(len(spent) / count, 1)}
            for name, spent in longest
        ],
    }


def kernels(events: Sequence[dict[str, Any]]) -> list[Span]:
    """What ran on the GPU; nothing on a CPU."""
    asked = {
        event["args"]["correlation"]: event["ts"]
        for event in events
        if event.get("cat") in ("cuda_runtime", "cuda_driver") and "correlation" in event.get("args", {})
    }
    spans = []
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            begin, length = event["ts"], event["dur"]
            by = asked.get(event.get("args", {}).get("correlation"), begin)
            spans.append(Span(event["name"], begin, begin + length, length, by))
    return spans


def operations(events: Iterable[dict[str, Any]]) -> list[Span]:
    """Operations of a CPU, each with the time it spends outside the operations it calls."""
    by_thread: dict[Any, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "cpu_op":
            by_thread[event["tid"]].append(event)
    spans = []
    for thread in by_thread.values():
        outer: list[Span] = []  # each inside the one before
        for event in sorted(thread, key=lambda event: (event["ts"], -event["dur"])):
            begin, length = event["ts"], event["dur"]
            while outer and outer[-1].end <= begin:
                spans.append(outer.pop())
            if outer:
                outer[-1] = outer[-1]._replace(own=outer[-1].own - length)
            outer.append(Span(event["name"], begin, begin + length, length, begin))
        spans += outer
    return spans


def busy(work: Iterable[Span]) -> float:
    """Microseconds in which something ran: kernels on several streams count once."""
    total, until = 0.0, float("-inf")
    for span in sorted(work, key=lambda span: span.begin):
        total += max(0.0, span.end - max(until, span.begin))
        until = max(until, span.end)
    return total


def kind_of(name: str) -> str:
    """See KINDS."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), "other")


if __name__ == "__main__":
    sys.exit(main())
