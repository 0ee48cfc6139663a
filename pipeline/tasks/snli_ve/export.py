"""A checkpoint of SNLI-VE to a model folder that `AlbefEntailment.from_pretrained` loads, or to the official layout."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch

from albef.config import AlbefConfig
from albef.downstream.snli_ve import AlbefForEntailment
from albef.entailment import AlbefEntailment
from albef.errors import CheckpointError, ConfigError
from albef.weights.files import load_strictly
from albef.weights.official import to_official
from albef.weights.tensor_file import write_pickle
from pipeline.checkpoints.layout import MODEL_CONFIG, resolve_checkpoint, state_file
from pipeline.checkpoints.meta import USE_ANOTHER
from pipeline.checkpoints.weights import check_weights, read_model, read_shape, read_state
from pipeline.config.annotation_sections import ClassifierObjective
from pipeline.export.model_card import model_card, rows_of_run, validation_of
from pipeline.export.output_folder import MADE_BY, OFFICIAL_NAME, atomic_folder
from samples.quote import quote

log = logging.getLogger(__name__)

USE = """\
## Use

```python
from PIL import Image
from albef import AlbefEntailment

model = AlbefEntailment.from_pretrained("this folder")
contradicts, neither, entails = model.predict(Image.open("photo.jpg"), "two dogs run on a beach")[0]
```
"""

VALIDATION = "Accuracy of the student on the run's validation entries at this step, percent; `majority` is what always "
VALIDATION += "giving the most frequent answer would score."


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
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
        config, objective = AlbefConfig.from_dict(values["model"]), ClassifierObjective(**values["objective"])
    except (ValueError, LookupError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{folder / MODEL_CONFIG} cannot be read: {quote(error)}", USE_ANOTHER) from None
    with torch.device("meta"):  # names and shapes only
        shapes = {name: weight.shape for name, weight in AlbefForEntailment(config, objective).state_dict().items()}
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
            model = AlbefForEntailment(config, objective)
            load_strictly(model, teacher if kind == "teacher" and teacher else student, source=str(folder))
            distilled = f"alpha {objective.alpha:g}" if objective.distill else "none"
            origin = rows_of_run(
                meta,
                weights="momentum teacher" if kind == "teacher" else kind,
                trained={"task": "visual entailment (SNLI-VE)", "momentum distillation": distilled},
                checkpoint=folder.name,
            )
            card = model_card(
                meta.run_name, config, origin=origin, use=USE, validation=validation_of(folder, meta.step, VALIDATION)
            )
            AlbefEntailment(model, max_text_tokens=objective.max_text_tokens).save_pretrained(written, model_card=card)
    log.info("exported the %s of %s (step %d) to %s", kind, folder, meta.step, out)
