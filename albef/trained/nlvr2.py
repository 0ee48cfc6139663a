"""A trained model of NLVR2: two images and a statement in, the probability that it is true out; saved to a folder."""

# B pairs of images, or statements

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from albef.config import AlbefConfig
from albef.downstream.nlvr2 import AlbefForNlvr2
from albef.saved_model import SavedModel
from albef.trained.image_pairs import pairs_with_texts


class AlbefNlvr2(SavedModel[AlbefForNlvr2]):
    """`AlbefForNlvr2` with its tokenizer and preprocessing, in evaluation mode; see `SavedModel`."""

    model_type = "albef_nlvr2"

    @classmethod
    def build(cls, config: AlbefConfig) -> AlbefForNlvr2:
        """Makes a model of this shape."""
        return AlbefForNlvr2(config)

    @torch.no_grad()
    def compare(
        self,
        first: Image.Image | Sequence[Image.Image] | Tensor,
        second: Image.Image | Sequence[Image.Image] | Tensor,
        statements: str | Sequence[str],
    ) -> Tensor:
        """Probability (B,) that statement b is true of the images first[b] and second[b], in this order.

        Args:
            first, second: B images each, of any size and mode, a single image, or a preprocessed tensor (B, 3, H, W).
            statements: B raw texts, or one; they are cleaned like the captions of training.

        Raises: ValueError when the numbers of images and texts differ; TypeError for anything else.
        """
        inputs = pairs_with_texts(self, first, second, statements)
        if inputs is None:
            return torch.empty(0, device=self.device)
        return self.model.predict(*inputs).softmax(dim=1)[:, 1]
