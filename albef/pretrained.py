"""A trained ALBEF: images and texts in, features and matching probabilities out; loaded from and saved to a folder."""

# B images or texts, P patches, L text tokens, D image width, H text width, E embedding

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from PIL import Image
from torch import Tensor

from albef.config import AlbefConfig
from albef.downstream.retrieval import AlbefForRetrieval
from albef.grounding.boxes import Box
from albef.grounding.explanation import Explanation, explain
from albef.grounding.phrases import By, Grounded, ground
from albef.inputs.arguments import as_texts
from albef.model import AlbefForPretraining
from albef.saved_model import SavedModel
from samples.captions import clean_caption


class Albef(SavedModel[AlbefForPretraining | AlbefForRetrieval]):
    """The student or teacher of pretraining with its tokenizer and preprocessing; see `SavedModel`.

    `from_pretrained` of the folder of a model that was fine-tuned for retrieval gives an `AlbefRetrieval`.
    """

    model_type = "albef"

    @classmethod
    def build(cls, config: AlbefConfig) -> AlbefForPretraining | AlbefForRetrieval:
        """Makes a model of this shape."""
        return AlbefForPretraining(config)

    @torch.no_grad()
    def encode_image(self, images: Image.Image | Sequence[Image.Image] | Tensor) -> tuple[Tensor, Tensor]:
        """Image tokens and features.

        Args:
            images: B images of any size and mode, a single image, or a preprocessed tensor (B, 3, H, W)
                (`albef.inputs.preprocess`).

        Returns: image_embeds (B, 1+P, D), and image_feat (B, E) of norm 1, comparable with text_feat by dot product.

        Raises: TypeError for anything else, such as a tensor of raw bytes (uint8); ValueError for a tensor of another
            shape.
        """
        return self.model.encode_image(self.pixels(images))

    @torch.no_grad()
    def encode_text(self, texts: str | Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Text tokens and features of B raw texts, or of one; they are cleaned like the captions of training.

        Returns: text_embeds (B, L, H), text_feat (B, E) of norm 1, attention_mask (B, L), 1 where there is a token.

        Raises: TypeError for anything else.
        """
        cleaned = [clean_caption(text) for text in as_texts(texts)]
        pad: Literal["longest"] | int = "longest" if cleaned else 1  # the encoder needs one position, also for no text
        tokens = self.tokenizer(cleaned, self.max_text_tokens, pad=pad)
        input_ids, attention_mask = (x.to(self.device) for x in tokens)
        text_embeds, text_feat = self.model.encode_text(input_ids, attention_mask)
        return text_embeds, text_feat, attention_mask

    @torch.no_grad()
    def match(self, images: Image.Image | Sequence[Image.Image] | Tensor, texts: str | Sequence[str]) -> Tensor:
        """Probability (B,) that image b and text b belong together, by the multimodal encoder.

        Raises: ValueError when the numbers of texts and images differ; TypeError as `encode_image`, `encode_text`.
        """
        images, texts = self.checked_images(images), as_texts(texts)
        if len(images) != len(texts):
            raise ValueError(f"{len(images)} images and {len(texts)} texts make no pairs")
        if not texts:
            return torch.empty(0, device=self.device)
        image_embeds, _ = self.encode_image(images)
        text_embeds, _, attention_mask = self.encode_text(texts)
        return self.model.match(text_embeds, attention_mask, image_embeds).softmax(dim=1)[:, 1]

    def explain(self, image: Image.Image, text: str, *, layer: int | None = None) -> Explanation:
        """Where the model looks for each word of a text: `.maps`, `.phrase("red star")`, `.figure()`.

        Args:
            image: one image of any size and mode.
            text: raw, cleaned like the captions of training.
            layer: 0-based multimodal layer; None takes the third of six, or the like, as the original's grounding does.

        Raises: TypeError when it is not one PIL.Image and one string.
        """
        return explain(self.model, self.tokenizer, image, text, layer=layer, max_text_tokens=self.max_text_tokens)

    def ground(
        self,
        image: Image.Image,
        phrase: str,
        *,
        boxes: Sequence[Box] = (),
        by: By = "itm",
        layer: int | None = None,
    ) -> Grounded:
        """The box that a phrase refers to in an image: `.box`, `.heat`, `.figure()`.

        Args:
            image, phrase: as in `explain`.
            boxes: proposals of a detector (x, y, width, height in pixels of the upright image), of which one is chosen;
                without any, the box of the map itself.
            by: "itm", the maps of `explain`; "itc", of the image encoder by similarity.
            layer: 0-based, of the multimodal encoder or, by itc, of the image encoder; None takes the paper's.

        Raises: TypeError when it is not one PIL.Image and one string.
        """
        return ground(
            self.model,
            self.tokenizer,
            image,
            phrase,
            boxes=boxes,
            by=by,
            layer=layer,
            max_text_tokens=self.max_text_tokens,
        )


class AlbefRetrieval(Albef):
    """The same of a model that was fine-tuned for retrieval: it has no MLM head, which nothing here uses."""

    model_type = "albef_retrieval"

    @classmethod
    def build(cls, config: AlbefConfig) -> AlbefForRetrieval:
        """Makes a model of this shape."""
        return AlbefForRetrieval(config)
