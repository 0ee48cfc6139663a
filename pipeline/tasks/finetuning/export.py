"""A checkpoint of a fine-tuned model to a model folder that its class loads, or to the official layout."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from albef.config import AlbefConfig
from albef.errors import CheckpointError, ConfigError
from albef.saved_model import SavedModel
from albef.weights.files import load_strictly
from albef.weights.official import to_official
from albef.weights.tensor_file import write_pickle
from pipeline.checkpoints.layout import MODEL_CONFIG, resolve_checkpoint, state_file
from pipeline.checkpoints.meta import USE_ANOTHER
from pipeline.checkpoints.weights import check_weights, read_model, read_shape, read_state
from pipeline.export.model_card import model_card, rows_of_run, validation_of
from pipeline.export.output_folder import MADE_BY, OFFICIAL_NAME, atomic_folder
from samples.quote import quote

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ExportedTask:
    """How a task's checkpoint becomes a trained model, and what its card states."""

    name: str
    objective: type[Any]
    """Class of the `objective` in `model_config.json`."""
    model: Callable[[AlbefConfig, Any], nn.Module]
    """Makes the model of a shape and an objective."""
    saved: Callable[[Any, Any, Mapping[str, Any]], SavedModel[Any]]
    """Makes what is saved of a model, its objective, and all of `model_config.json`."""
    use: str
    """Section of the card that shows how the model is used."""
    validation: str
    """What the validation scalars are."""


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    task: ExportedTask,
    layout: Literal["hf", "official"] = "hf",
    kind: Literal["student", "teacher"] = "student",
    overwrite: bool = False,
) -> None:
    """Write the fp32 weights of a checkpoint as a folder; arguments as for pretraining's.

    Raises: CheckpointError when the checkpoint is missing, damaged or does not fit, has no teacher where one is asked
        for, or `out` must not be overwritten.
    """
    folder, meta = resolve_checkpoint(checkpoint)
    values = read_shape(folder)
    try:
        config, objective = AlbefConfig.from_dict(values["model"]), task.objective(**values["objective"])
    except (ValueError, LookupError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{folder / MODEL_CONFIG} cannot be read: {quote(error)}", USE_ANOTHER) from None
    with torch.device("meta"):  # names and shapes only
        shapes = {name: weight.shape for name, weight in task.model(config, objective).state_dict().items()}
    student = read_model(folder, meta, shapes)
    teacher = None
    if state_file("teacher") in meta.files or kind == "teacher":
        teacher = read_state(folder, meta, ("teacher",))["teacher"]
        check_weights(teacher, shapes, source=f"the teacher in {folder}")
    with atomic_folder(out, overwrite=overwrite) as written:
        if layout == "official":
            write_pickle(written / OFFICIAL_NAME, {"model": to_official(student, teacher, None)})
            (written / MADE_BY).write_text(f"`pipeline export` wrote {OFFICIAL_NAME}; --overwrite replaces it.\n")
        else:
            model = task.model(config, objective)
            load_strictly(model, teacher if kind == "teacher" and teacher else student, source=str(folder))
            distilled = f"alpha {objective.alpha:g}" if objective.distill else "none"
            origin = rows_of_run(
                meta,
                weights="momentum teacher" if kind == "teacher" else kind,
                trained={"task": task.name, "momentum distillation": distilled},
                checkpoint=folder.name,
            )
            card = model_card(
                meta.run_name,
                config,
                origin=origin,
                use=task.use,
                validation=validation_of(folder, meta.step, task.validation),
            )
            task.saved(model, objective, values).save_pretrained(written, model_card=card)
    log.info("exported the %s of %s (step %d) to %s", kind, folder, meta.step, out)
