"""A checkpoint of retrieval to a model folder that `Albef.from_pretrained` loads, or to the official layout."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

import torch

from albef.config import AlbefConfig
from albef.downstream.retrieval import AlbefForRetrieval
from albef.errors import CheckpointError, ConfigError
from albef.pretrained import AlbefRetrieval
from albef.weights.files import load_strictly
from albef.weights.official import to_official
from albef.weights.tensor_file import write_pickle
from pipeline.checkpoints.layout import MODEL_CONFIG, resolve_checkpoint
from pipeline.checkpoints.meta import USE_ANOTHER
from pipeline.checkpoints.weights import check_weights, read_model, read_shape, read_state
from pipeline.config.annotation_sections import RetrievalObjective
from pipeline.export.model_card import model_card, rows_of_run, validation_of
from pipeline.export.output_folder import MADE_BY, OFFICIAL_NAME, atomic_folder
from samples.quote import quote

log = logging.getLogger(__name__)

USE = """\
## Use

```python
from PIL import Image
from albef import Albef

model = Albef.from_pretrained("this folder")
_, image_feat = model.encode_image([Image.open("photo.jpg")])
_, text_feat, _ = model.encode_text(["a dog on a beach", "two cups of coffee"])
similarity = image_feat @ text_feat.T                      # contrastive: fast, for ranking many
probability = model.match([Image.open("photo.jpg")], ["a dog on a beach"])  # for the best of them
```
"""

NAMES = {"retrieval": "image-text retrieval", "grounding": "weakly supervised grounding"}
"""What the card calls a task."""
VALIDATION = "Retrieval of the student among the run's validation images and texts at this step, recall in percent "
VALIDATION += "(`itc_`: before re-ranking)."


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    layout: Literal["hf", "official"] = "hf",
    kind: Literal["student", "teacher"] = "student",
    overwrite: bool = False,
) -> None:
    """Write the fp32 weights of a checkpoint as a folder; arguments as for pretraining's.

    Raises: CheckpointError when the checkpoint is missing, damaged or does not fit, or `out` must not be overwritten.
    """
    folder, meta = resolve_checkpoint(checkpoint)
    values = read_shape(folder)
    try:
        config, objective = AlbefConfig.from_dict(values["model"]), RetrievalObjective(**values["objective"])
    except (ValueError, LookupError, TypeError, ConfigError) as error:
        raise CheckpointError(f"{folder / MODEL_CONFIG} cannot be read: {quote(error)}", USE_ANOTHER) from None
    with torch.device("meta"):  # names and shapes only
        shapes = {name: weight.shape for name, weight in AlbefForRetrieval(config, objective).state_dict().items()}
    student = read_model(folder, meta, shapes)
    state = read_state(folder, meta, ("teacher", "queue"))
    teacher = state["teacher"]
    averaged = {name: shape for name, shape in shapes.items() if name in teacher}
    check_weights(teacher, averaged, source=f"the teacher in {folder}")
    weights = student | (teacher if kind == "teacher" else {})
    with atomic_folder(out, overwrite=overwrite) as written:
        if layout == "official":
            write_pickle(written / OFFICIAL_NAME, {"model": to_official(weights, teacher, state["queue"])})
            (written / MADE_BY).write_text(f"`pipeline export` wrote {OFFICIAL_NAME}; --overwrite replaces it.\n")
        else:
            model = AlbefForRetrieval(config, objective)
            load_strictly(model, weights, source=str(folder))
            of_teacher = "momentum teacher (matching head and temperature are the student's)"
            origin = rows_of_run(
                meta,
                weights=of_teacher if kind == "teacher" else kind,
                trained={
                    "task": NAMES[values["task"]],
                    "losses": "itc, itm",
                    "momentum distillation": f"itc, alpha {objective.alpha:g}" if objective.distill else "none",
                    "queue": f"{objective.queue_size:,} features per modality, with the numbers of their images",
                },
                checkpoint=folder.name,
            )
            card = model_card(
                meta.run_name, config, origin=origin, use=USE, validation=validation_of(folder, meta.step, VALIDATION)
            )
            AlbefRetrieval(model, max_text_tokens=objective.max_text_tokens).save_pretrained(written, model_card=card)
    log.info("exported the %s of %s (step %d) to %s", kind, folder, meta.step, out)
