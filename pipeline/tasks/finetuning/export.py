"""A checkpoint of a fine-tuned model to a model folder that its class loads, or to the official layout."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

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
from pipeline.run.training_data import record_beside
from samples.quote import quote

log = logging.getLogger(__name__)


def distilled(objective: Any) -> dict[str, str]:
    """The card's row about momentum distillation."""
    return {"momentum distillation": f"alpha {objective.alpha:g}" if objective.distill else "none"}


def no_details(objective: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Of a kind of model without `detail_types`."""
    return {}


@dataclass(frozen=True, kw_only=True)
class ExportedTask:
    """How a task's checkpoint becomes a trained model, and what its card states."""

    name: str
    objective: type[Any]
    """Class of the `objective` in `model_config.json`."""
    kind: type[SavedModel[Any]]
    """What is saved."""
    use: str
    """Section of the card that shows how the model is used."""
    validation: str = ""
    """What the validation scalars are; empty for a task without."""
    rows: Callable[[Any], Mapping[str, str]] = distilled
    """Of an objective: rows of the card about what was trained."""
    details: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]] = no_details
    """Of an objective and all of `model_config.json`: the kind's `detail_types`."""
    not_averaged: tuple[str, ...] = ()
    """Names, or beginnings of names, of weights that the teacher does not have: they are always the student's."""


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
        shapes = {name: weight.shape for name, weight in task.kind.build(config).state_dict().items()}
    student = read_model(folder, meta, shapes)
    wanted = {name for name in ("teacher", "queue") if state_file(name) in meta.files}
    state = read_state(folder, meta, sorted(wanted | ({kind} - {"student"})))
    teacher = state.get("teacher")
    if teacher is not None:
        averaged = {name: shape for name, shape in shapes.items() if not name.startswith(task.not_averaged)}
        check_weights(teacher, averaged, source=f"the teacher in {folder}")
    weights = student | (teacher if kind == "teacher" and teacher else {})
    with atomic_folder(out, overwrite=overwrite) as written:
        if layout == "official":
            write_pickle(written / OFFICIAL_NAME, {"model": to_official(weights, teacher, state.get("queue"))})
            (written / MADE_BY).write_text(f"`pipeline export` wrote {OFFICIAL_NAME}; --overwrite replaces it.\n")
        else:
            model = task.kind.build(config)
            load_strictly(model, weights, source=str(folder))
            saved = task.kind(model, max_text_tokens=objective.max_text_tokens, **task.details(objective, values))
            also_student = " (what it does not average is the student's)" if task.not_averaged else ""
            card = model_card(
                meta.run_name,
                config,
                origin=rows_of_run(
                    meta,
                    weights=f"momentum teacher{also_student}" if kind == "teacher" else kind,
                    trained={"task": task.name, **task.rows(objective)},
                    checkpoint=folder.name,
                ),
                use=task.use,
                validation=validation_of(folder, meta.step, task.validation),
            )
            saved.training_data = record_beside(folder)
            saved.save_pretrained(written, model_card=card)
    log.info("exported the %s of %s (step %d) to %s", kind, folder, meta.step, out)
