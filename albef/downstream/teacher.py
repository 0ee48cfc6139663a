"""The momentum teacher of a task that averages its whole model."""

from __future__ import annotations

from typing import cast

import torch

from albef.config import DistillConfig
from albef.kernels.dispatch import Impl
from albef.momentum import M, MomentumWeights


class WholeModelTeacher(MomentumWeights[M]):
    """The average of the whole model; a subclass has `targets`.

    Args:
        student: source of shape, objective, kernels and initial weights: its pretrained ones, the same on every rank.
            It is made from a config and an objective.
        device: the device of the teacher.
        compute_dtype: type of its forward; None takes its weights'.
    """

    def __init__(self, student: M, *, device: torch.device | str, compute_dtype: torch.dtype | None = None) -> None:
        objective = cast(DistillConfig, student.objective)
        super().__init__(
            student,
            lambda: type(student)(student.config, objective),
            momentum=objective.momentum,
            device=device,
            compute_dtype=compute_dtype,
            dropout=objective.teacher_dropout,
            kernels=cast(Impl, student.kernels),
        )
