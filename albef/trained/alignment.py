"""A trained model of text assignment: two images and a text in, which of them has it out; from and to a folder."""

# B pairs of images, or texts

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from albef.config import AlbefConfig
from albef.downstream.alignment import AlbefForAlignment
from albef.saved_model import SavedModel
from albef.trained.image_pairs import pairs_with_texts


class AlbefAlignment(SavedModel[AlbefForAlignment]):
    """`AlbefForAlignment` with its tokenizer and preprocessing, in evaluation mode; see `SavedModel`."""

    model_type = "albef_alignment"

    @classmethod
    def build(cls, config: AlbefConfig) -> AlbefForAlignment:
        """Makes a model of this shape."""
        return AlbefForAlignment(config)

    @torch.no_grad()
    def assign(
        self,
        first: Image.Image | Sequence[Image.Image] | Tensor,
        second: Image.Image | Sequence[Image.Image] | Tensor,
        texts: str | Sequence[str],
    ) -> Tensor:
        """Probabilities (B, 3) that text b belongs to the image first[b], to second[b], or to neither.

        Arguments and errors as of `AlbefNlvr2.compare`.
        """
        inputs = pairs_with_texts(self, first, second, texts)
        if inputs is None:
            return torch.empty(0, 3, device=self.device)
        return self.model.predict(*inputs).softmax(dim=1)
