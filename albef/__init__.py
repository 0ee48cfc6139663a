"""The ALBEF model: encoders, losses, momentum teacher, feature queue, weight converters.

May import torch, timm and transformers (the tokenizer), and what those bring (numpy, Pillow, safetensors).
Knows nothing of DeepSpeed, tar files, Slurm or command lines: `pipeline` trains it, `data_prep` feeds it.

batch               what a micro-batch brings to the step, and what the teacher adds
beside_weights      what scripts pickle beside the weights, discarded without running it
captions            cleaning captions and questions, for users of the model
config              widths and depths; the sizes base and tiny
encoders            what student and teacher share: encoders, projections, MLM head
errors              errors a user can mend: message and hint
fusion              multimodal encoder: BERT's second half with cross-attention
gradcam             where in the image a word looks
heads               masked language modelling head, tied to the word embeddings
init_config         which files the starting weights come from
initialise          starting weights from DeiT and BERT files
inputs              pictures and texts as users pass them: one or a list, all else an error
json_file           a JSON object out of a folder that a stranger may have written
layers              the two halves of a BERT layer
losses              ITC, ITM and MLM as pure functions, in nats
masking             masking tokens, 80/10/10
model               the pretraining model and its forward: reads like the paper's section 3.2
model_folder        what a model folder consists of; may it be written again
momentum            the teacher: fp32 weights, soft targets, moving average
negatives           drawing hard negatives for ITM
objective           the losses, the teacher and the queue, and every part the paper ablates
official            to and from the official checkpoint layout, bit for bit
position_embedding  position embeddings for another number of patches
precision           what is computed in fp32 whatever the weights are in
preprocess          images for evaluation and use
pretrained          `Albef`: encode_image, encode_text, match, from and to a folder
queue               the ring of features and its all-gather
regular_file        opening files that a user names, or an error that says what is there instead
tensor_file         reading and writing .safetensors files
text                text encoder: BERT's embeddings and first half
tokenizer           text to word pieces, as ALBEF was trained
vision              image encoder: timm's vision transformer
weight_files        reading weight files and loading them with nothing left over
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from albef.pretrained import Albef

__all__ = ["Albef"]


def __getattr__(name: str) -> Any:
    """`albef.Albef`, imported when it is asked for: `import albef.errors` must not wait for torch and transformers."""
    if name == "Albef":
        from albef.pretrained import Albef

        return Albef
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
