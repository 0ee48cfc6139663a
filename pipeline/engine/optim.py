"""AdamW and which parameters it decays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import NonNegativeFloat, PositiveFloat

from albef.errors import ConfigError

if TYPE_CHECKING:  # torch is imported where it is used, so that `check --help` need not wait for it
    import torch
    from torch import nn


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW as in the paper; the rate's course is in `schedule`."""

    lr: PositiveFloat = 1e-4
    """Peak learning rate, for the global batch as it is: no automatic scaling with the batch."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's decay of the first and second moment."""
    eps: PositiveFloat = 1e-8
    """AdamW's term against division by zero."""
    weight_decay: NonNegativeFloat = 0.02
    """Decoupled weight decay of the parameters that `decay_groups` decays."""
    decay_groups: Literal["fixed", "official"] = "fixed"
    """official: decay all but one-dimensional parameters and biases, so also the temperature, the class token and the
    position embeddings. fixed: spare these as well. Word embeddings are decayed in both."""
    clip_grad_norm: NonNegativeFloat | None = None
    """Clip the gradient's global norm to this; null (the paper) does not clip."""

    def __post_init__(self) -> None:
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ConfigError(f"optim.betas {list(self.betas)} are not both in [0, 1)", "the paper's are [0.9, 0.999]")


SPARED = ("temperature", "cls_token", "pos_embed", "embeddings.position.weight")
"""Ends of the names that only `official` decays."""


def decays(name: str, ndim: int, rule: Literal["fixed", "official"]) -> bool:
    """Whether weight decay applies to a parameter.

    `official` is the original's rule (optim_factory.py): nothing of one dimension, nothing whose name ends in `.bias`.
    Our temperature has shape (1,), because DeepSpeed cannot partition a zero-dimensional parameter; the original's has
    shape () and so is decayed, which is why it is named here.
    """
    if rule == "fixed" and any(name == end or name.endswith("." + end) for end in SPARED):
        return False
    if name == "temperature":
        return True
    return ndim > 1 and not name.endswith(".bias")


def split_names(
    parameters: Iterable[tuple[str, torch.Tensor]], rule: Literal["fixed", "official"]
) -> tuple[list[str], list[str]]:
    """Names without and with weight decay, in the model's order."""
    without: list[str] = []
    with_decay: list[str] = []
    for name, parameter in parameters:
        (with_decay if decays(name, parameter.ndim, rule) else without).append(name)
    return without, with_decay


def parameter_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """The optimizer's two groups, without and with decay (the original's order); trainable parameters only."""
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    without, with_decay = split_names(trainable.items(), config.decay_groups)
    groups = [
        {"params": [trainable[name] for name in without], "weight_decay": 0.0},
        {"params": [trainable[name] for name in with_decay], "weight_decay": config.weight_decay},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, config: OptimConfig, *, device: torch.device) -> torch.optim.AdamW:
    """torch's AdamW, handed to DeepSpeed as a client optimizer (so nothing is compiled at start).

    Fused on a GPU only: on the CPU the fused kernel rounds the last few elements of a tensor otherwise than the rest,
    so weights would depend on where ZeRO cuts its partitions, that is on the number of ranks.
    """
    import torch

    return torch.optim.AdamW(
        parameter_groups(model, config),
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=device.type == "cuda",
    )
