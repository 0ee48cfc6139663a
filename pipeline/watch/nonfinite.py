"""Where a forward and backward stops being finite: which activation first, which gradients, which samples."""

# B micro-batch, L text tokens

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from albef.batch import PretrainBatch
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.queue import FeatureQueue
from pipeline.watch.skipped_step_dump import LOSS_NAMES


@dataclass(kw_only=True)
class LaneReport:
    """What one forward and backward of a micro-batch showed."""

    losses: dict[str, float] = field(default_factory=dict)
    """By LOSS_NAMES."""
    gradient_norm: float = math.nan
    first: str = ""
    """`the image`, or student or teacher and the name of the first module whose output is not finite; empty when all
    outputs are."""
    rows: list[int] = field(default_factory=list)
    """Samples that are not finite in it, where its rows are samples."""
    bad_gradients: list[str] = field(default_factory=list)
    """Parameters whose gradient is not finite, in the order the backward came to them."""
    num_gradients: int = 0

    @property
    def finite(self) -> bool:
        """Whether nothing at all was found."""
        return not self.first and not self.bad_gradients and all(map(math.isfinite, self.losses.values()))


def run_lane(
    student: AlbefForPretraining,
    teacher: MomentumTeacher,
    queue: FeatureQueue,
    batch: PretrainBatch,
    alpha: float,
    *,
    seed: int,
) -> LaneReport:
    """One lane of a training step without engine and optimizer: teacher and student forward, then backward.

    Args:
        batch: on the student's device.
        seed: of the dropout, as the step drew it.
    """
    found = LaneReport()
    student.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    if bad := bad_rows(batch.image):
        found.first, found.rows = "the image", bad
    with _watched(student, "student", batch, found), _watched(teacher.model, "teacher", batch, found):
        targets = teacher.targets(batch, queue, student.clamped_temperature().detach())
        losses = student(batch, targets, queue, alpha)
        losses.total.backward()
    found.losses = {name: loss.item() for name, loss in zip(LOSS_NAMES, losses, strict=False)}
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    found.gradient_norm = torch.nn.utils.get_total_norm(gradients).item()
    found.num_gradients = len(gradients)
    student.zero_grad(set_to_none=True)
    return found


def one_sample(batch: PretrainBatch, index: int) -> PretrainBatch:
    """The micro-batch that holds only sample `index`, masked and drawn as in the whole."""
    own = batch.mlm_positions // batch.input_ids.shape[1] == index
    rows = slice(index, index + 1)
    return PretrainBatch(
        image=batch.image[rows],
        input_ids=batch.input_ids[rows],
        attention_mask=batch.attention_mask[rows],
        mlm_input_ids=batch.mlm_input_ids[rows],
        mlm_positions=batch.mlm_positions[own] - index * batch.input_ids.shape[1],
        mlm_labels=batch.mlm_labels[own],
        negative_draws=batch.negative_draws[:, rows],
        keys=batch.keys[rows],
        captions=batch.captions[rows],
    )


def bad_rows(tensor: Tensor) -> list[int]:
    """The rows of a tensor that are not finite throughout."""
    return (~tensor.detach().isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()


@contextmanager
def _watched(model: nn.Module, whose: str, batch: PretrainBatch, found: LaneReport) -> Iterator[None]:
    """Note the first output that is not finite, of any module, and every gradient that is not."""
    size = batch.image.shape[0]

    def watch_output(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            for tensor in _tensors(output):
                if found.first or not tensor.is_floating_point() or bool(tensor.isfinite().all()):
                    continue
                found.first = f"{whose} {name}".strip()
                found.rows = bad_rows(tensor) if tensor.ndim > 1 and tensor.shape[0] == size else []

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
    """The tensors of a module's output, in its order; the whole model's, whose name says nothing, last."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        yield from _tensors(list(vars(output).values()))
