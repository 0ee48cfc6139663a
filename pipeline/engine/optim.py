"""AdamW and which parameters it decays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pipeline.config.sections import OptimConfig
from pipeline.engine.adamw import VectorAdamW

SPARED = ("temperature", "cls_token", "pos_embed", "embeddings.position.weight")
"""Suffixes of the names that only `official` decays."""


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
    """The optimizer's two groups, without and with decay (the original's order); trainable parameters only.

    With `temperature_lr_share` below 1, the temperature is a third group, whose `lr_share` the trainer multiplies its
    rate by.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    names = dict(zip(("without", "with"), split_names(trainable.items(), config.decay_groups), strict=True))
    slow = {"temperature"} & set(trainable) if config.temperature_lr_share < 1 else set()
    decay = {"without": 0.0, "with": config.weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": [trainable[name] for name in names[kind] if name not in slow], "weight_decay": decay[kind]}
        for kind in names
    ]
    for kind in names:
        params = [trainable[name] for name in names[kind] if name in slow]
        groups.append({"params": params, "weight_decay": decay[kind], "lr_share": config.temperature_lr_share})
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, config: OptimConfig, *, device: torch.device) -> torch.optim.AdamW:
    """torch's fused AdamW, which DeepSpeed gets as a client optimizer, so that it compiles none at the start."""
    groups = parameter_groups(model, config)
    if device.type == "cuda":
        return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    return VectorAdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


@torch.no_grad()
def start_from(engine: Any, weights: Mapping[str, Tensor]) -> None:
    """Give the optimizer's fp32 weights the values that the model had before the engine cast it to bf16.

    DeepSpeed takes them from the cast model. They would lie on values that bf16 has, and until updates add up to half a
    step of bf16 (1e-5 on a weight of 0.05 is a twelfth of that) no such weight of the forward would move.

    Args:
        weights: fp32, by name, whole. Where the model itself is fp32, nothing is done.
    """
    from deepspeed.utils import safe_set_full_fp32_param  # here, because the functions above do without DeepSpeed

    named = {name: one for name, one in engine.module.named_parameters() if one.dtype != weights[name].dtype}
    if named and hasattr(engine.optimizer, "fp32_groups"):  # stage 0
        names = {id(parameter): name for name, parameter in named.items()}
        for group, twins in zip(engine.optimizer.fp16_groups, engine.optimizer.fp32_groups, strict=True):
            for parameter, twin in zip(group, twins, strict=True):
                twin.copy_(weights[names[id(parameter)]])
        return
    for name, parameter in named.items():
        safe_set_full_fp32_param(parameter, weights[name])


def optimizer_name(engine: Any) -> str:
    """DeepSpeed's optimizer around ours, as `LeanBf16Optimizer around AdamW`; the same name twice without a wrapper."""
    return f"{type(engine.optimizer).__name__} around {type(engine.basic_optimizer).__name__}"
