"""Where a forward and backward stops being finite: the first activation, the gradients, the samples."""

# B micro-batch, L text tokens

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.task import LaneStep, Task, must_be_finite


@dataclass(kw_only=True)
class LaneReport:
    """What was found in one forward and backward of a micro-batch."""

    losses: dict[str, float] = field(default_factory=dict)
    """By name."""
    gradient_norm: float = math.nan
    first: str = ""
    """`the image`, or the first module whose output is not finite, by its model's name in `modules` and its own; empty
    when all outputs are."""
    rows: list[int] = field(default_factory=list)
    """Rows that are not finite in that output, if its rows are samples, or their images: the first of each, then the
    second ones."""
    bad_gradients: list[str] = field(default_factory=list)
    """Parameters whose gradient is not finite, in the order of the backward."""
    num_gradients: int = 0

    @property
    def finite(self) -> bool:
        """Whether nothing at all was found."""
        return not self.first and not self.bad_gradients and all(map(math.isfinite, self.losses.values()))


def run_lane(task: Task, modules: Mapping[str, nn.Module], batch: Any, at: LaneStep, *, seed: int) -> LaneReport:
    """One lane of a training step without engine and optimizer: the task's forward, then backward.

    Args:
        modules: what to watch, by the names under which it is reported.
        batch: on the model's device.
        seed: of the dropout, as the step drew it.
    """
    found = LaneReport()
    model = task.model
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    if bad := bad_rows(batch.image):
        found.first, found.rows = "the image", bad
    with ExitStack() as watched:
        for name, module in modules.items():
            watched.enter_context(_watched(module, name, batch, found))
        losses = task.losses(model, batch, at)
        losses.total.backward()
    task.discard()
    values = dict(zip(task.loss_names, losses.values.tolist(), strict=True))
    found.losses = {name: values[name] for name in must_be_finite(task.loss_names)}
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    found.gradient_norm = torch.nn.utils.get_total_norm(gradients).item()
    found.num_gradients = len(gradients)
    model.zero_grad(set_to_none=True)
    return found


def bad_rows(tensor: Tensor) -> list[int]:
    """The rows of a tensor that are not finite throughout."""
    return (~tensor.detach().isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()


@contextmanager
def _watched(model: nn.Module, whose: str, batch: Any, found: LaneReport) -> Iterator[None]:
    """Record the first output of any module that is not finite, and every gradient that is not.

    The hook of the model itself, whose name is empty, runs after those of the modules in it.
    """
    sizes = {batch.image.shape[0], len(batch.keys)}

    def watch_output(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if found.first or not tensor.is_floating_point() or bool(tensor.isfinite().all()):
                    continue
                found.first = f"{whose} {name}".strip()
                found.rows = bad_rows(tensor) if tensor.ndim > 1 and tensor.shape[0] in sizes else []

        return hook

    def watch_gradient(name: str) -> Any:
        def hook(parameter: Tensor) -> None:
            if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
                found.bad_gradients.append(name)

        return hook

    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.callback(module.register_forward_hook(watch_output(name)).remove)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                hooks.callback(parameter.register_post_accumulate_grad_hook(watch_gradient(name)).remove)
        yield


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors of a module's output, in its order."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        yield from _tensors(list(vars(output).values()))
