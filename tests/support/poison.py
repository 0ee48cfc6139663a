"""Makes chosen lanes of a real training run fail, and digests the whole state of a run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from albef.inputs.batch import PretrainBatch
from pipeline.task import LaneLosses, LaneStep
from pipeline.tasks.pretraining.collate import PretrainBatcher


def keep_process_group() -> None:
    """Let several runs follow each other in this process: DeepSpeed's groups would not survive the end of one."""
    from pipeline.engine import distributed

    distributed.shutdown = lambda: None


@contextmanager
def without_steps(steps: Collection[int]) -> Iterator[None]:
    """The loader leaves these steps out, counted from 0: the others keep their numbers and their batches."""
    from pipeline.data.loader import TrainingLoader

    original = TrainingLoader.steps

    def others(loader: TrainingLoader, start: int) -> Iterator[Any]:
        return (batches for batches in original(loader, start) if batches.step not in steps)

    with patch.object(TrainingLoader, "steps", others):
        yield


@contextmanager
def nan_pixels(where: Mapping[int, int]) -> Iterator[None]:
    """The second picture of these micro-batches (step, counted from 0 -> lane) loses a pixel where they are made.

    They are made as floats then: bytes could not hold that. For loaders without workers.
    """
    collated = PretrainBatcher.batch

    def batch(batcher: PretrainBatcher, examples: Any, *, step: int, lane: int, **at: Any) -> PretrainBatch:
        made = collated(batcher, examples, step=step, lane=lane, **at)
        if where.get(step) == lane:
            made = made.normalised()
            made.image[1, 0, 3, 3] = math.nan
        return made

    with patch.object(PretrainBatcher, "batch", batch):
        yield


def inf_gradient(task: Any, engine: Any, batch: Any, at: LaneStep) -> LaneLosses:
    """The lane's backward writes an infinity into one weight's gradient."""

    def poisoned(gradient: torch.Tensor) -> torch.Tensor:
        handle.remove()
        changed = gradient.clone()
        changed.view(-1)[3] = math.inf
        return changed

    handle = task.model.itm_head.weight.register_hook(poisoned)
    return task.losses(engine, batch, at)


def nan_loss(task: Any, engine: Any, batch: Any, at: LaneStep) -> LaneLosses:
    """The lane reports a matching loss of NaN; the total and the gradient are sound."""
    losses = task.losses(engine, batch, at)
    losses.values[task.loss_names.index("loss_itm")] = math.nan
    return losses


def whole_state(task: Any, engine: Any) -> dict[str, str]:
    """SHA-256 of all that a step moves, on this rank: weights, what the optimizer holds, teacher, queue and pointer."""
    optimizer = engine.basic_optimizer
    tensors: dict[str, Any] = {f"student/{name}": weight for name, weight in engine.module.named_parameters()}
    for group_number, group in enumerate(optimizer.param_groups):
        for number, weight in enumerate(group["params"]):
            name = f"optimizer/{group_number}/{number}"
            state = optimizer.state.get(weight, {})
            tensors[name] = weight
            tensors[f"{name}/step"] = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32)
            for moment in ("exp_avg", "exp_avg_sq"):  # AdamW makes them with its first step, as zeros
                tensors[f"{name}/{moment}"] = state.get(moment, torch.zeros_like(weight))
    tensors |= {f"teacher/{name}": weight for name, weight in task.teacher.state_dict().items()}
    tensors |= {f"queue/{name}": torch.as_tensor(value) for name, value in task.queue.state_dict().items()}
    return {name: digest_of(tensor) for name, tensor in tensors.items()}


def digest_of(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's bytes."""
    return hashlib.sha256(
        tensor.detach().reshape(-1).contiguous().view(torch.uint8).cpu().numpy().tobytes()
    ).hexdigest()


def all_finite(task: Any, engine: Any) -> bool:
    """Whether weights and teacher are."""
    weights = [*engine.module.parameters(), *task.teacher.state_dict().values()]
    return all(bool(weight.isfinite().all()) for weight in weights)
