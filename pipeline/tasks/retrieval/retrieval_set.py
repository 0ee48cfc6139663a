"""From pairs on the disk to the input of `retrieve`: images as tensors, texts as tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.inputs.preprocess import preprocess_image
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.tasks.retrieval.annotations import EvaluationPairs
from pipeline.tasks.retrieval.evaluation import RetrievalSet


def retrieval_set(
    pairs: EvaluationPairs, model: AlbefConfig, tokenizer: AlbefTokenizer, *, max_text_tokens: int = 30
) -> RetrievalSet:
    """Images squash-resized to the model's size; texts cut to `max_text_tokens` ([CLS] included) or the model's limit.

    Images are decoded on demand; texts are tokenized here, a million of them in a minute.
    """
    input_ids, attention_mask = tokenizer(pairs.texts, max_length=min(max_text_tokens, model.max_text_positions))

    def load_image(index: int) -> Tensor:
        return preprocess_image(pairs.image(index), model.image_size)

    return RetrievalSet(
        num_images=pairs.num_images,
        load_image=load_image,
        input_ids=input_ids,
        attention_mask=attention_mask,
        text_to_image=torch.tensor(pairs.text_to_image),
    )
