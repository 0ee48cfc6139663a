"""A run's model before its starting weights are loaded: the same on every rank, computed as the recipe says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import torch

from albef.errors import ConfigError
from albef.kernels.dispatch import Impl, use_triton
from pipeline.config.run_config import RunConfig
from pipeline.data import seeds
from pipeline.engine.distributed import World


class Student(Protocol):
    """What every task's model has."""

    kernels: Impl
    """Version of the fused kernels."""

    def checkpoint_activations(self) -> None:
        """Compute layers again in the backward, rather than keep what they made."""


S = TypeVar("S", bound=Student)


def new_student(build: Callable[[], S], run: RunConfig, world: World) -> S:
    """The model that `build` makes, with the run's random weights, on the CPU.

    Raises: ConfigError for kernels that cannot run here.
    """
    check_kernels(run.model.kernels, world.device)
    torch.manual_seed(seeds.derive(run.seed, "weights"))  # the same weights on every rank
    student = build()
    student.kernels = run.model.kernels
    if run.model.activation_checkpointing:
        student.checkpoint_activations()
    return student


def check_kernels(kernels: Impl, device: torch.device) -> None:
    """Raises: ConfigError when `model.kernels` asks for Triton where it cannot run."""
    try:
        use_triton("model.kernels", kernels, torch.empty(0, device=device))
    except RuntimeError as error:
        raise ConfigError(str(error), "set model.kernels to auto or torch, or train on a CUDA device") from None
