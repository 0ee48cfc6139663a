"""The ALBEF model: encoders, losses, momentum teacher, feature queue, weight converters.

May import torch, timm and transformers (the tokenizer), and their dependencies numpy, Pillow and safetensors.
Has no code for DeepSpeed, tar files, Slurm or command lines: `pipeline` trains the model on the data of `data_prep`.

batch               the tensors of a micro-batch, and the teacher's targets for it
beside_weights      discards objects that scripts pickle beside the weights, without running them
captions            cleans captions and questions, for users of the model
config              what a user chooses: widths and depths, the objective, the starting weights
encoders            the parts of student and teacher: encoders, projections, MLM head
errors              errors that a user can fix: message and hint
fusion              multimodal encoder: BERT's second half with cross-attention
gradcam             which parts of the image a word attends to
initialise          starting weights from DeiT and BERT files
inputs              images and texts that users pass: one or a list, anything else is an error
json_file           reads a JSON object from an untrusted folder
layers              the two halves of a BERT layer, and the head of masked language modelling
losses              ITC, ITM and MLM as pure functions, in nats
masking             masks tokens, 80/10/10
model               the pretraining model and its forward: reads like the paper's section 3.2
model_folder        the files of a model folder, and whether it may be overwritten
momentum            the teacher: fp32 weights, soft targets, moving average
negatives           draws hard negatives for ITM
official            to and from the official checkpoint layout, bit for bit
position_embedding  resizes position embeddings to another number of patches
precision           the rule for what is computed in fp32 with any weights
preprocess          images for evaluation and use
pretrained          `Albef`: encode_image, encode_text, match, from and to a folder
queue               the ring of features and its all-gather
regular_file        opens files that a user names, or raises an error that names what is there instead
tensor_file         reads and writes .safetensors files
text                text encoder: BERT's embeddings and first half
tokenizer           text to word pieces, as ALBEF was trained
vision              image encoder: timm's vision transformer
weight_files        reads weight files, and loads them with nothing missing or left over
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from albef.pretrained import Albef

__all__ = ["Albef"]


def __getattr__(name: str) -> Any:
    """`albef.Albef`, imported on first use, so that `import albef.errors` does not import torch and transformers."""
    if name == "Albef":
        from albef.pretrained import Albef

        return Albef
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
