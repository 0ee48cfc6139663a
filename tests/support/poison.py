"""Makes chosen steps of a real training run fail, and digests the whole state of a run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

Poison = Callable[[Any, Any], None]
"""Called with the Training and its StepBatches before a step."""


@contextmanager
def around_steps(before: Callable[[Any, Any], Any], after: Callable[[Any, Any, Any], None]) -> Iterator[None]:
    """Call `before(training, batches)` and `after(training, batches, its result)` around every real train_step.

    A step for which `before` returns "spare" is left out.
    """
    from pipeline import train as module

    original = module.train_step

    def step(training: Any, batches: Any) -> Any:
        given = before(training, batches)
        if given == "spare":
            return None, {}
        result = original(training, batches)
        after(training, batches, given)
        return result

    module.train_step = step
    try:
        yield
    finally:
        module.train_step = original


def keep_process_group() -> None:
    """Let several runs follow each other in this process: DeepSpeed's groups would not survive the end of one."""
    from pipeline.engine import distributed

    distributed.shutdown = lambda: None


def nan_pixels(training: Any, batches: Any, lane: int = 0) -> None:
    """The lane's second picture loses a pixel, on the rank that holds the lane."""
    if lane in training.loader.lanes:
        batches.lanes[training.loader.lanes.index(lane)].image[1, 0, 3, 3] = math.nan


def inf_gradient(training: Any, batches: Any) -> None:
    """The backward of the last rank's last lane writes an infinity into one weight's gradient."""
    weight = training.engine.module.itm_head.weight
    if training.world.rank != training.world.size - 1:
        return
    calls = []

    def poisoned(gradient: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) < len(batches.lanes):
            return gradient
        handle.remove()
        changed = gradient.clone()
        changed.view(-1)[3] = math.inf
        return changed

    handle = weight.register_hook(poisoned)


def nan_loss(training: Any, batches: Any) -> None:
    """The last rank's first lane reports a matching loss of NaN, while total and gradient are as usual."""
    if training.world.rank != training.world.size - 1:
        return

    def poisoned(_module: Any, _inputs: Any, output: Any) -> Any:
        handle.remove()
        return output._replace(itm=output.itm * math.nan)

    handle = training.engine.module.register_forward_hook(poisoned)


def whole_state(training: Any) -> dict[str, str]:
    """SHA-256 of all that a step moves, on this rank: weights, what the optimizer holds, teacher, queue and pointer."""
    optimizer = training.engine.basic_optimizer
    tensors: dict[str, Any] = {f"student/{name}": weight for name, weight in training.engine.module.named_parameters()}
    for group_number, group in enumerate(optimizer.param_groups):
        for number, weight in enumerate(group["params"]):
            name = f"optimizer/{group_number}/{number}"
            state = optimizer.state.get(weight, {})
            tensors[name] = weight
            tensors[f"{name}/step"] = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32)
            for moment in ("exp_avg", "exp_avg_sq"):  # AdamW makes them with its first step, as zeros
                tensors[f"{name}/{moment}"] = state.get(moment, torch.zeros_like(weight))
    tensors |= {f"teacher/{name}": weight for name, weight in training.task.teacher.state_dict().items()}
    tensors |= {f"queue/{name}": torch.as_tensor(value) for name, value in training.task.queue.state_dict().items()}
    return {name: digest_of(tensor) for name, tensor in tensors.items()}


def digest_of(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(
        tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy().tobytes()
    ).hexdigest()


def all_finite(training: Any) -> bool:
    """Whether weights and teacher are."""
    weights = [*training.engine.module.parameters(), *training.task.teacher.state_dict().values()]
    return all(bool(weight.isfinite().all()) for weight in weights)
