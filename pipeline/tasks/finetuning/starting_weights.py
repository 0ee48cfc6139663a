"""Starts a task's model from a trained one: an exported folder, or an official .pth of a kind that it can start from.

Every weight is accounted for (`albef.weights.to_task`): a model of random weights trains too, and stays at the majority
class.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.errors import CheckpointError, ConfigError
from albef.json_file import read_object
from albef.momentum import MomentumWeights
from albef.weights.files import read_weights
from albef.weights.official import OfficialWeights, read_official
from albef.weights.to_task import StartReport, start_task, start_weights
from pipeline.config.run_config import RunConfig
from samples.quote import quote

log = logging.getLogger(__name__)

UNSEEN = ("vision_heads", "text_heads", "patch_size")
"""What the shapes of weights do not show, or not alone, and another value of which computes something else."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A trained model to start from."""

    name: str
    """Quoted, for messages."""
    config: AlbefConfig
    """Its shape."""
    weights: dict[str, Tensor]
    """By our names."""
    official: OfficialWeights | None = None
    """What else an official checkpoint holds, on the CPU; None where the source is a folder."""


def start_student(student: nn.Module, run: RunConfig) -> Source | None:
    """Load the starting weights of a run, and log what became of them.

    Returns: where they come from; None for random ones.
    Raises: CheckpointError.
    """
    if run.init.model is None:
        log.warning("init.model is null: training starts from random weights")
        return None
    source = read_source(run.init.model, run.model.shape)
    log.info("%s", start_task(student, source.weights, source=source.name))
    return source


def start_teacher(teacher: MomentumWeights[Any] | None, source: Source | None) -> None:
    """Start a teacher from the momentum weights of an official checkpoint, as the original does.

    Without them, and what they do not have, it keeps what it was made of, the student's.

    Raises: CheckpointError for weights that do not fit.
    """
    official = None if source is None else source.official
    if teacher is None or source is None or official is None or official.teacher is None:
        return
    name = f"the momentum weights of {source.name}"
    weights, report = start_weights(teacher.state_dict(), official.teacher, source=name)
    teacher.load_state_dict(weights)
    log.info("teacher: %s", report)


def check_start(run: RunConfig, build: Callable[[], nn.Module]) -> None:
    """Check the starting weights of a run against the model that `build` makes, here without memory.

    Raises: CheckpointError, as training would.
    """
    if run.init.model is not None:
        with torch.device("meta"):
            student = build()
        start_from_model(student, run.model.shape, run.init.model, device="meta")


def start_from_model(model: nn.Module, config: AlbefConfig, source: str, *, device: str = "cpu") -> StartReport:
    """Load the weights of a trained model into `model`, in place.

    Args:
        config: the model's shape. Image position embeddings of another image size are resized to it.
        source: the folder of an exported ALBEF, or an official checkpoint file.
        device: "meta" checks names and shapes only, where the source is a folder.

    Raises: CheckpointError when the source cannot be read, is of another kind or shape, or lacks a weight.
    """
    found = read_source(source, config, device=device)
    return start_task(model, found.weights, source=found.name)


def read_source(source: str, config: AlbefConfig, *, device: str = "cpu") -> Source:
    """The weights of a trained model; arguments as in `start_from_model`, which checks names and shapes.

    Raises: CheckpointError when the source cannot be read, or differs in what shapes do not show.
    """
    found = _read(Path(source), config, device)
    for name in UNSEEN:
        theirs, ours = getattr(found.config, name), getattr(config, name)
        if theirs != ours:
            raise CheckpointError(
                f"{found.name} has {name} {theirs}, the recipe's model {ours}", f"set model.{name}={theirs}"
            )
    return found


def _read(source: Path, config: AlbefConfig, device: str) -> Source:
    name = quote(source)
    if not source.is_dir():
        official = read_official(source, vision_heads=config.vision_heads, text_heads=config.text_heads)
        weights = {key: tensor.to(device) for key, tensor in official.student.items()}
        return Source(name=name, config=official.config, weights=weights, official=official)
    file = source / "config.json"
    values: dict[str, Any] = read_object(file, hint="give a folder that `python -m pipeline export` wrote")
    try:
        theirs = AlbefConfig.from_dict(values["model"])
    except (ConfigError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{quote(file)} cannot be read: {quote(error)}", "give a folder that `python -m pipeline export` wrote"
        ) from None
    return Source(name=name, config=theirs, weights=read_weights(source / "model.safetensors", device=device))
