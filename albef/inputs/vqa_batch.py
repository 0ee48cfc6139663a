"""The tensors of one micro-batch of visual question answering."""

# B questions, L question tokens, R answers of all questions, T decoder inputs, N words to predict

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.inputs.batch import ImageBatch
from albef.inputs.tokenizer import AlbefTokenizer


@dataclass(kw_only=True)
class VqaBatch(ImageBatch):
    """One micro-batch: B images with a question each, and one or more answers a question."""

    question_ids: Tensor
    """(B, L) token ids, int64, padded with [PAD]."""
    question_mask: Tensor
    """(B, L) 1 where there is a token, 0 at padding, int64."""
    answer_ids: Tensor
    """(R, T) what the decoder reads, int64: [CLS] and the answer, without its last token; see `decoder_inputs`."""
    answer_question: Tensor
    """(R,) int64, the question of each answer."""
    answer_weights: Tensor
    """(R,) weight of each answer in its question's loss, float32."""
    answer_positions: Tensor
    """(N,) flat positions (r * T + t) at which a word is predicted, ascending, int64; then 0 in rows that only fill
    up."""
    answer_labels: Tensor
    """(N,) the word after each position, int64, up to the final [SEP]; negative in rows that only fill up."""

    def only(self, index: int) -> Self:
        """The question with all of its answers."""
        mine = self.answer_question == index  # (R,)
        length = self.answer_ids.shape[1]
        row, token = self.answer_positions // length, self.answer_positions % length  # (N,) each
        own = mine[row] & (self.answer_labels >= 0)
        return dataclasses.replace(
            super().only(index),
            answer_ids=self.answer_ids[mine],
            answer_question=torch.zeros_like(self.answer_question[mine]),
            answer_weights=self.answer_weights[mine],
            answer_positions=((mine.cumsum(0) - 1)[row] * length + token)[own],
            answer_labels=self.answer_labels[own],
        )


class DecoderInputs(NamedTuple):
    """Answers as the decoder reads them, and the words that it must predict."""

    ids: Tensor
    """(R, T) int64, `VqaBatch.answer_ids`."""
    positions: Tensor
    """(N,) int64, flat positions r * T + t of the states that predict a word."""
    labels: Tensor
    """(N,) int64, the word after each."""


def decoder_inputs(answer_ids: Tensor, answer_mask: Tensor) -> DecoderInputs:
    """Align answers with what is predicted: position t reads the tokens up to t and predicts token t + 1.

    The last token of the longest answer is only predicted, so its column is not read. Shifting is done here and nowhere
    else: shifted twice, a model learns the word after the next one (huggingface/transformers#23000).

    Args:
        answer_ids: (R, T+1) tokens of whole answers, `[CLS] answer [SEP]`, padded at the end. On the CPU, where N is
            known without waiting for a device.
        answer_mask: (R, T+1) 1 / 0.
    """
    positions = answer_mask[:, 1:].flatten().nonzero().squeeze(1)
    return DecoderInputs(answer_ids[:, :-1].contiguous(), positions, answer_ids[:, 1:].flatten()[positions])


def whole_answers(answers: Sequence[str], tokenizer: AlbefTokenizer, *, max_tokens: int) -> tuple[Tensor, Tensor]:
    """Ids and 1 / 0 mask (R, T+1) of `[CLS] answer [SEP]`; a longer answer loses its end, not its [SEP]."""
    ids, mask = tokenizer(answers, max_length=max_tokens - 1)  # (R, T)
    ids, mask = F.pad(ids, (0, 1), value=tokenizer.pad_token_id), F.pad(mask, (0, 1))
    ends = mask.sum(dim=1, keepdim=True)  # (R, 1) the first free position
    return ids.scatter(1, ends, tokenizer.sep_token_id), mask.scatter(1, ends, 1)


def weighted_token_losses(losses: Tensor, batch: VqaBatch) -> Tensor:
    """The loss of a micro-batch: its answers' losses by weight, summed, over the number of questions.

    Args:
        losses: (N,) of the words to predict.

    Returns: scalar.
    """
    weights = batch.answer_weights.to(losses.dtype)[batch.answer_positions // batch.answer_ids.shape[1]]  # (N,)
    return torch.dot(losses, weights) / len(batch.image)
