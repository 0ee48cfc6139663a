"""A trained model of visual entailment: images and sentences in, probabilities out; from and to a folder."""

# B images or texts

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from albef.config import AlbefConfig
from albef.downstream.snli_ve import AlbefForEntailment
from albef.inputs.arguments import as_texts
from albef.saved_model import SavedModel
from samples.captions import clean_caption


class AlbefEntailment(SavedModel[AlbefForEntailment]):
    """`AlbefForEntailment` with its tokenizer and preprocessing, in evaluation mode; see `SavedModel`."""

    model_type = "albef_entailment"

    @classmethod
    def build(cls, config: AlbefConfig) -> AlbefForEntailment:
        """Makes a model of this shape."""
        return AlbefForEntailment(config)

    @torch.no_grad()
    def predict(self, images: Image.Image | Sequence[Image.Image] | Tensor, sentences: str | Sequence[str]) -> Tensor:
        """Probabilities (B, 3) that image b contradicts sentence b, leaves it open, or entails it.

        The order is that of `albef.inputs.snli_ve_batch.CLASSES`.

        Args:
            images: B images of any size and mode, a single image, or a preprocessed tensor (B, 3, H, W).
            sentences: B raw texts, or one; they are cleaned like the captions of training.

        Raises: ValueError when the numbers of texts and images differ; TypeError for anything else.
        """
        checked, texts = self.checked_images(images), as_texts(sentences)
        if len(checked) != len(texts):
            raise ValueError(f"{len(checked)} images and {len(texts)} sentences make no pairs")
        if not texts:
            return torch.empty(0, 3, device=self.device)
        tokens = self.tokenizer([clean_caption(text) for text in texts], self.max_text_tokens)
        input_ids, attention_mask = (tensor.to(self.device) for tensor in tokens)
        return self.model.predict(self.pixels(checked), input_ids, attention_mask).softmax(dim=1)
