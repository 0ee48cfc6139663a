"""Takes a step of `benchmarks.baseline` when asked: the other side of `pipeline bench step --baseline`.

    python -m benchmarks.baseline_process FILE

A process of its own, so that its peak memory is its own and it imports no DeepSpeed. FILE is what
`pipeline/planning/bench_baseline.py` wrote: shapes, settings and one batch. Each line on stdin asks for one thing and
is answered with one line of JSON on stdout:

    step    takes a step             {"seconds": on a GPU by its events, "cpu_s": of this process}
    memory  {"peak": bytes, as `pipeline.planning.timing.peak_memory`}
"""

from __future__ import annotations

import json
import sys

import torch

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.batch import PretrainBatch
from benchmarks.baseline import BaselineStep, Student
from pipeline.planning.timing import StepTimer, peak_memory


def main() -> None:
    asked = torch.load(sys.argv[1], weights_only=True)
    device = torch.device(asked["device"])
    if device.type == "cuda":
        torch.cuda.set_device(device)
    config, objective = AlbefConfig.from_dict(asked["model"]), ObjectiveConfig(**asked["objective"])
    torch.manual_seed(0)
    weights = Student(config).state_dict()
    queue = torch.nn.functional.normalize(torch.randn(2, objective.queue_size, config.embed_dim), dim=-1)
    step = BaselineStep(config, objective, weights, queue, device=device, **asked["settings"])
    del weights, queue
    host_batch = PretrainBatch(**asked["batch"])
    if device.type == "cuda":
        host_batch = host_batch.pin_memory()
    for line in sys.stdin:
        match line.strip():
            case "step":
                timer = StepTimer(device)
                timer(lambda: step(host_batch.to(device, non_blocking=True), alpha=objective.alpha))
                [took] = timer.times()
                print(json.dumps({"seconds": took.seconds, "cpu_s": took.cpu_s}), flush=True)
            case "memory":
                print(json.dumps({"peak": peak_memory(device)}), flush=True)
            case other:
                raise SystemExit(f"asked for {other!r}")


if __name__ == "__main__":
    main()
