"""The files of a model folder, and whether a folder is one that may be overwritten."""

from __future__ import annotations

import os
from pathlib import Path

from albef.errors import CheckpointError
from albef.json_file import read_object

TRAINING_DATA = "training_data.json"
"""What a model was trained on, where that is known. `pipeline.run.training_data` writes and reads it."""
MODEL_FILES = (
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    TRAINING_DATA,
    "README.md",
)
"""The files that `SavedModel.save_pretrained` writes."""
MODEL_TYPES = {
    "albef": "albef.Albef",
    "albef_alignment": "albef.AlbefAlignment",
    "albef_entailment": "albef.AlbefEntailment",
    "albef_nlvr2": "albef.AlbefNlvr2",
    "albef_retrieval": "albef.Albef",
    "albef_vqa": "albef.AlbefVqa",
}
"""What config.json calls the kinds of models, their `SavedModel.model_type`, and the class that loads each."""


def is_model_folder(folder: Path) -> bool:
    """Whether `save_pretrained` wrote the folder, or was killed while writing it."""
    try:
        return str(read_object(folder / "config.json", hint="").get("model_type")) in MODEL_TYPES
    except CheckpointError:
        return False


def check_replaceable(folder: Path) -> None:
    """Raise a CheckpointError if writing a model would replace files that do not belong to an ALBEF."""
    there = [name for name in MODEL_FILES if os.path.lexists(folder / name)]
    if there and not is_model_folder(folder):
        raise CheckpointError(
            f"{folder} is not the folder of an ALBEF, and holds {there[0]}, which would be replaced",
            "choose another folder, or move that file elsewhere",
        )
