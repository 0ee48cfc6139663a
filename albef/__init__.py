"""The ALBEF model: encoders, losses, momentum teacher, feature queue, weight converters.

May import torch, timm and transformers (the tokenizer), and their dependencies numpy, Pillow and safetensors.
Has no code for DeepSpeed, tar files, Slurm or command lines: `pipeline` trains the model on the data of `data_prep`.

config           what a user chooses: widths and depths, the objective, the starting weights
errors           errors that a user can fix: message and hint
evaluation_mode  puts a model into eval mode for a while
gradcam          which parts of the image each token attends to
gradcam_itc      which parts of the image make it similar to a text
json_file        reads a JSON object from an untrusted folder
model            the pretraining model and its forward: reads like the paper's section 3.2
momentum         the teacher: fp32 weights, soft targets, moving average
precision        the rule for what is computed in fp32 with any weights
pretrained       `Albef` and `AlbefRetrieval`: encode_image, encode_text, match, from and to a folder
regular_file     opens files that a user names, or raises an error that names what is there instead
saved_model      what `Albef` and the classes of `trained` share: the folder of model, tokenizer and preprocessing
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from albef.pretrained import Albef
    from albef.trained.alignment import AlbefAlignment
    from albef.trained.entailment import AlbefEntailment
    from albef.trained.nlvr2 import AlbefNlvr2
    from albef.trained.vqa import AlbefVqa

__all__ = ["Albef", "AlbefAlignment", "AlbefEntailment", "AlbefNlvr2", "AlbefVqa"]

_MODULES = {
    "Albef": "albef.pretrained",
    "AlbefAlignment": "albef.trained.alignment",
    "AlbefEntailment": "albef.trained.entailment",
    "AlbefNlvr2": "albef.trained.nlvr2",
    "AlbefVqa": "albef.trained.vqa",
}


def __getattr__(name: str) -> Any:
    """A class of trained models, imported on first use: `import albef.errors` imports no torch."""
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
