"""Starts a task's model from a trained one: an exported folder, or an official .pth of a kind that it can start from.

Every weight is accounted for (`albef.weights.to_task`): a model of random weights trains too, and stays at the majority
class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.errors import CheckpointError, ConfigError
from albef.json_file import read_object
from albef.weights.files import read_weights
from albef.weights.official import read_official
from albef.weights.to_task import StartReport, start_task
from samples.quote import quote

UNSEEN = ("vision_heads", "text_heads", "patch_size")
"""What the shapes of weights do not show, or not alone, and another value of which computes something else."""


def start_from_model(model: nn.Module, config: AlbefConfig, source: str, *, device: str = "cpu") -> StartReport:
    """Load the weights of a trained model into `model`, in place.

    Args:
        config: the model's shape. Image position embeddings of another image size are resized to it.
        source: the folder of an exported ALBEF, or an official checkpoint file.
        device: "meta" checks names and shapes only, where the source is a folder.

    Raises: CheckpointError when the source cannot be read, is of another kind or shape, or lacks a weight.
    """
    state, theirs = _read(Path(source), config, device)
    for name in UNSEEN:
        if getattr(theirs, name) != getattr(config, name):
            raise CheckpointError(
                f"{quote(source)} has {name} {getattr(theirs, name)}, the recipe's model {getattr(config, name)}",
                f"set model.{name}={getattr(theirs, name)}",
            )
    return start_task(model, state, source=quote(source))


def _read(source: Path, config: AlbefConfig, device: str) -> tuple[dict[str, Tensor], AlbefConfig]:
    """The weights by our names, and the shape of the model that they are of."""
    if not source.is_dir():
        official = read_official(source, vision_heads=config.vision_heads, text_heads=config.text_heads)
        return {name: tensor.to(device) for name, tensor in official.student.items()}, official.config
    file = source / "config.json"
    values: dict[str, Any] = read_object(file, hint="give a folder that `python -m pipeline export` wrote")
    try:
        theirs = AlbefConfig.from_dict(values["model"])
    except (ConfigError, LookupError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{quote(file)} cannot be read: {quote(error)}", "give a folder that `python -m pipeline export` wrote"
        ) from None
    return read_weights(source / "model.safetensors", device=device), theirs
