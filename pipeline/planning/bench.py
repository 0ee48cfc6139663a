"""`pipeline bench step`: what one training step costs on this machine's device.

Two measurements of the same step through the DeepSpeed engine, on noise, loader excluded: free-running for samples/s,
and with a synchronisation after each part for the split. FLOPs are counted (`flops.py`), so MFU follows.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch

from albef.config import AlbefConfig, ObjectiveConfig
from albef.errors import ConfigError
from pipeline.planning.flops import flops_per_sample, peak_flops, random_batch
from pipeline.run.logs import print_answer

PARTS = ("teacher_targets", "forward", "backward", "optimizer", "teacher_update", "queue")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `bench step`."""
    parser.add_argument("what", choices=["step"], help="what to measure: one training step")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto: cuda where there is one (default)")
    parser.add_argument("--size", choices=["base", "tiny"], default="base", help="model size (default: base)")
    parser.add_argument("--micro-batch-size", type=int, default=None, help="default: 64 on CUDA, 4 on the CPU")
    parser.add_argument("--precision", choices=["bf16", "fp32"], default=None, help="default: bf16 on CUDA, else fp32")
    parser.add_argument("--stage", type=int, choices=[0, 1, 2], default=1, help="ZeRO stage (default: 1)")
    parser.add_argument("--queue-size", type=int, default=65_536, help="queue entries (default: 65536)")
    parser.add_argument("--steps", type=int, default=None, help="measured steps (default: 20 on CUDA, 3 on the CPU)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    has_cuda = torch.cuda.is_available()
    device = torch.device(("cuda" if has_cuda else "cpu") if args.device == "auto" else args.device)
    if device.type == "cuda" and not has_cuda:
        raise ConfigError("--device cuda: torch finds no CUDA device here", "use --device cpu")
    on_gpu = device.type == "cuda"
    result = measure_step(
        device=device,
        size=args.size,
        micro_batch_size=args.micro_batch_size or (64 if on_gpu else 4),
        precision=args.precision or ("bf16" if on_gpu else "fp32"),
        stage=args.stage,
        queue_size=args.queue_size,
        steps=args.steps or (20 if on_gpu else 3),
    )
    print_answer(json.dumps(result) if args.json else _table(result))
    return 0


def measure_step(
    *, device: torch.device, size: str, micro_batch_size: int, precision: str, stage: int, queue_size: int, steps: int
) -> dict[str, Any]:
    """Time `steps` training steps after a warm-up. Times are medians in milliseconds, memory in GiB, FLOPs counted."""
    config = AlbefConfig.base() if size == "base" else AlbefConfig.tiny()
    objective = ObjectiveConfig(queue_size=queue_size)
    step = _BenchStep(config, objective, device, micro_batch_size, precision, stage)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(2):
        step()
    step.synchronize()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    step.synchronize()
    step_s = (time.perf_counter() - began) / steps
    split: dict[str, list[float]] = {part: [] for part in PARTS}
    for _ in range(steps):
        step(split)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    flops = flops_per_sample(config, objective, batch_size=micro_batch_size)
    peak, peak_source = peak_flops(device, dtype)
    return {
        "what": "step",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name(),
        "torch": torch.__version__,
        "size": size,
        "precision": precision,
        "zero_stage": stage,
        "micro_batch_size": micro_batch_size,
        "queue_size": queue_size,
        "steps": steps,
        "step_ms": round(step_s * 1e3, 2),
        "samples_per_s": round(micro_batch_size / step_s, 2),
        "split_ms": {part: round(statistics.median(times) * 1e3, 2) for part, times in split.items()},
        "peak_memory_gib": round(step.peak_memory_gib(), 2),
        "gflop_per_sample": round(flops / 1e9, 1),
        "mfu_pct": round(100 * flops * micro_batch_size / step_s / peak, 1),
        "peak_tflops": round(peak / 1e12, 2),
        "peak_source": peak_source,
    }


class _BenchStep:
    """The train step of `train.py` on one fixed batch, with a stopwatch between its parts when asked."""

    def __init__(
        self,
        config: AlbefConfig,
        objective: ObjectiveConfig,
        device: torch.device,
        micro_batch_size: int,
        precision: str,
        stage: int,
    ) -> None:
        import deepspeed  # slow to import: not paid by --help

        from albef.model import AlbefForPretraining
        from albef.momentum import MomentumTeacher
        from albef.objective.queue import FeatureQueue
        from pipeline.config.sections import OptimConfig
        from pipeline.engine import distributed
        from pipeline.engine.optim import build_optimizer

        distributed.init()
        torch.manual_seed(0)
        self.device, self.alpha = device, objective.alpha
        student = AlbefForPretraining(config, objective).to(device).train()
        compute_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.teacher = MomentumTeacher(student, device=device, compute_dtype=compute_dtype)
        self.queue = FeatureQueue(objective.queue_size, config.embed_dim, seed=0, device=device)
        settings: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": micro_batch_size,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,
            "steps_per_print": 1_000_000,
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        }
        if precision == "bf16":
            settings["bf16"] = {"enabled": True}
        optimizer = build_optimizer(student, OptimConfig(), device=device)
        self.engine, *_ = deepspeed.initialize(
            model=student, optimizer=optimizer, config=settings, dist_init_required=False
        )
        self.batch = random_batch(config, objective, batch_size=micro_batch_size, device=device)

    def __call__(self, split: dict[str, list[float]] | None = None) -> None:
        def timed(part: str, work: Callable[[], Any]) -> Any:
            if split is None:
                return work()
            self.synchronize()
            began = time.perf_counter()
            result = work()
            self.synchronize()
            split[part].append(time.perf_counter() - began)
            return result

        temperature = self.engine.module.clamped_temperature().detach()
        targets = timed("teacher_targets", lambda: self.teacher.targets(self.batch, self.queue, temperature))
        self.queue.gather(targets.image_feat, targets.text_feat)
        losses = timed("forward", lambda: self.engine(self.batch, targets, self.queue, self.alpha))
        timed("backward", lambda: self.engine.backward(losses.total))
        timed("optimizer", self.engine.step)
        timed("queue", self.queue.enqueue)
        timed("teacher_update", lambda: self.teacher.update(self.engine.module))

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def peak_memory_gib(self) -> float:
        """Most device memory allocated so far; on the CPU, the process's largest resident size."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _cpu_name() -> str:
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _table(result: dict[str, Any]) -> str:
    rows = [
        (name, value if not isinstance(value, dict) else ", ".join(f"{k} {v}" for k, v in value.items()))
        for name, value in result.items()
    ]
    return "\n".join(f"{name:<18} {value}" for name, value in rows)
