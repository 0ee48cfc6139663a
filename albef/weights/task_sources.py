"""Which pretraining weight each weight of a task's model starts from.

Names here are ours; `official_names` has the official ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable

Source = Callable[[str], str]
"""The name of the weight that a task's weight starts from. A name that pretraining lacks stands for itself: the weight
is created, such as a new head."""

DECODER = (
    ("answer_decoder.embeddings.", "text_encoder.embeddings."),
    ("answer_decoder.layers.", "multimodal_encoder.layers."),
    ("answer_decoder.head.", "mlm_head."),
)
"""Parts of VQA's decoder, and those of pretraining that they copy."""
LAYER = re.compile(r"multimodal_encoder\.layers\.(\d+)\.")


def vqa_source(name: str) -> str:
    """VQA: the decoder copies word embeddings, multimodal layers and MLM head, beside the encoders themselves.

    The multimodal layers' cross-attention reads image states and the decoder's reads text states: its keys and values
    fit where both widths are equal, as in the paper's model.
    """
    for own, copied in DECODER:
        if name.startswith(own):
            return copied + name.removeprefix(own)
    return name


def two_image_source(name: str) -> str:
    """Text assignment, or NLVR2 without it: both layers of a pair copy one multimodal layer."""
    return LAYER.sub(lambda match: f"multimodal_encoder.layers.{int(match[1]) // 2}.", name)


def same_source(name: str) -> str:
    """NLVR2 after text assignment, and tasks that change no part of pretraining's model: every part as it is."""
    return name
