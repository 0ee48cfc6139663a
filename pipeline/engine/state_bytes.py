"""How many bytes the engine's weights, gradients and optimizer take on this rank, as they lie in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pipeline.engine.step_check import reduced_gradients


def state_bytes(engine: Any) -> dict[str, int]:
    """Bytes of `weights`, `gradients` and `optimizer` (moments and fp32 masters); each storage counts once.

    Args:
        engine: between the backward of the last lane and the optimizer's step, when all three are there.
    """
    parameters = list(engine.module.parameters())
    adamw = engine.basic_optimizer
    moments = [value for state in adamw.state.values() for value in state.values() if torch.is_tensor(value)]
    masters = [parameter for group in adamw.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in [*parameters, *masters] if parameter.grad is not None]
    seen: set[int] = set()
    return {
        "weights": _new_bytes(parameters, seen),
        "optimizer": _new_bytes([*moments, *masters], seen),
        "gradients": _new_bytes([*gradients, *reduced_gradients(engine)[0]], seen),
    }


def _new_bytes(tensors: Iterable[Tensor], seen: set[int]) -> int:
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total
