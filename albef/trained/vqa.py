"""A trained model of visual question answering: images and questions in, answers out; from and to a folder."""

# B images or questions

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from albef.config import AlbefConfig
from albef.downstream.vqa import AlbefForVqa, AnswerList
from albef.inputs.arguments import as_texts
from albef.inputs.tokenizer import AlbefTokenizer
from albef.inputs.vqa_batch import whole_answers
from albef.saved_model import SavedModel
from samples.captions import clean_question

QUESTION_WORDS = 50
"""Questions are cut to this many words, and not to the tokens of training, as in the original's evaluation."""


class AlbefVqa(SavedModel[AlbefForVqa]):
    """`AlbefForVqa` with its tokenizer and preprocessing, in evaluation mode; see `SavedModel`.

    Args:
        first_token_twice: count the first token of an answer twice when ranking, as the original does.
        answers_fingerprint: of the list of candidates that belongs to the model; None where there is none.
    """

    model_type = "albef_vqa"
    detail_types = {"first_token_twice": bool, "answers_fingerprint": str | None}  # noqa: RUF012

    @classmethod
    def build(cls, config: AlbefConfig) -> AlbefForVqa:
        """Makes a model of this shape."""
        return AlbefForVqa(config)

    def __init__(
        self,
        model: AlbefForVqa,
        tokenizer: AlbefTokenizer | None = None,
        *,
        max_text_tokens: int = 30,
        first_token_twice: bool = False,
        answers_fingerprint: str | None = None,
    ) -> None:
        super().__init__(model, tokenizer, max_text_tokens=max_text_tokens)
        model.objective = dataclasses.replace(model.objective, first_token_twice=first_token_twice)
        self.answers_fingerprint = answers_fingerprint

    def details(self) -> dict[str, Any]:
        """How it ranks, and its list of candidates."""
        return {
            "first_token_twice": self.model.objective.first_token_twice,
            "answers_fingerprint": self.answers_fingerprint,
        }

    @torch.no_grad()
    def rank(
        self,
        images: Image.Image | Sequence[Image.Image] | Tensor,
        questions: str | Sequence[str],
        answers: Sequence[str],
        k: int = 128,
    ) -> list[list[tuple[str, float]]]:
        """The k likeliest answers of each question with their log-likelihoods (nats), the best first.

        Args:
            images: B images of any size and mode, a single image, or a preprocessed tensor (B, 3, H, W).
            questions: B raw texts, or one; they are cleaned like the questions of training.
            answers: the candidates.
            k: at most all of them.

        Raises: ValueError when the numbers of questions and images differ; TypeError for anything else; ConfigError for
            no candidates, or k below 1.
        """
        inputs = self._inputs(images, questions)
        ids, mask = whole_answers(as_texts(answers), self.tokenizer, max_tokens=self.config.max_text_positions)
        ranked = self.model.rank(*inputs, AnswerList(ids, mask).to(self.device), k)
        return [
            [(answers[place], score) for place, score in zip(places, scores, strict=True)]
            for places, scores in zip(ranked.candidates.tolist(), ranked.scores.tolist(), strict=True)
        ]

    @torch.no_grad()
    def answer(
        self, images: Image.Image | Sequence[Image.Image] | Tensor, questions: str | Sequence[str], *, beams: int = 1
    ) -> list[str]:
        """An answer to each question, written word by word. Arguments and errors as of `rank`.

        Args:
            beams: partial answers kept at a time; 1 takes the likeliest word of each step.
        """
        ids, _ = self.model.generate(
            *self._inputs(images, questions), sep_token_id=self.tokenizer.sep_token_id, beams=beams
        )
        special = {self.tokenizer.cls_token_id, self.tokenizer.sep_token_id, self.tokenizer.pad_token_id}
        return [self.tokenizer.decode([one for one in row if one not in special]) for row in ids.tolist()]

    def _inputs(
        self, images: Image.Image | Sequence[Image.Image] | Tensor, questions: str | Sequence[str]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels, ids and mask on the model's device."""
        checked, texts = self.checked_images(images), as_texts(questions)
        if len(checked) != len(texts) or not texts:
            raise ValueError(f"{len(checked)} images and {len(texts)} questions make no pairs")
        cleaned = [clean_question(text, QUESTION_WORDS) for text in texts]
        ids, mask = self.tokenizer(cleaned, self.config.max_text_positions)
        return self.pixels(checked), ids.to(self.device), mask.to(self.device)
