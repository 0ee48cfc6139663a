"""The answer decoder: causal BERT layers that attend to a fused question (paper, section 4, VQA)."""

# B questions, L question tokens, R answers, g answers of a question, T answer tokens, H width, h heads, d = H / h
# N positions that are read

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.kernels.mlm import WordLogits
from albef.network.attention import ALIGNED, Attention, project_together, token_mask
from albef.network.layers import FeedForward, MlmHead, initialise_bert
from albef.network.text import TextEmbeddings


class Questions(NamedTuple):
    """Fused questions as the decoder's layers read them: computed once, for all answers and all steps of a search."""

    keys_values: tuple[Tensor, ...]
    """(B, L, 2, h, d) of each layer; (R, L, 2, h, d) where `AnswerDecoder.read` was given rows."""
    mask: Tensor
    """(B, 1, 1, L) added to the scores, alike."""


class QuestionAttention(Attention):
    """Answers attend to the fused states of their question."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config, context_width=config.text_width)

    def forward(
        self, hidden: Tensor, key_value: Tensor, question_mask: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """(R, T, H), or (N, H) at `positions`, of questions' keys and values (B, L, 2, h, d) under (B, 1, 1, L).

        R = g * B: g answers of question 0, then of question 1 and so on.
        """
        query = self.query(hidden).unflatten(-1, (1, self.heads, -1))  # (R, T, 1, h, d)
        # the g answers of a question are joined along the query length: a view, without a copy of keys and values
        joined = query.reshape(key_value.shape[0], -1, *query.shape[2:])
        attended = self.attend(joined, key_value, mask=question_mask).reshape(hidden.shape)
        if positions is not None:
            hidden, attended = (states.flatten(0, 1).index_select(0, positions) for states in (hidden, attended))
        return self.finish(hidden, attended)


class AnswerLayer(nn.Module):
    """Causal self-attention over the answer, cross-attention to the question, feed-forward."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config, context_width=config.text_width)
        self.cross_attention = QuestionAttention(config)
        self.ffn = FeedForward(config)

    def forward(
        self, hidden: Tensor, causal: Tensor, key_value: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> Tensor:
        """(R, T, H) under a mask (1, 1, T, T), to questions' (B, L, 2, h, d) under theirs; (N, H) with `positions`."""
        hidden = self.self_attention(hidden, causal)
        return cast(Tensor, self.ffn(self.cross_attention(hidden, key_value, mask, positions)))


class AnswerDecoder(nn.Module):
    """Embeddings of its own, `fusion_depth` layers, and a head tied to its word embeddings.

    Its weights start from those of the multimodal encoder, whose cross-attention reads image states: the keys and
    values here read text states. Image and text width are therefore equal where it starts from pretraining.
    """

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.layers = nn.ModuleList(AnswerLayer(config) for _ in range(config.fusion_depth))
        self.head = MlmHead(config)
        initialise_bert(self.embeddings)
        initialise_bert(self.layers, config.layer_init_std)
        with torch.no_grad():
            self.embeddings.word.weight[config.pad_token_id].zero_()

    def read(self, question_states: Tensor, question_mask: Tensor, rows: Tensor | None = None) -> Questions:
        """Keys and values of fused questions, of all layers in one product.

        Args:
            question_states: (B, L, H).
            question_mask: (B, L) 1 / 0.
            rows: (R,) int64, the question of each answer, where their numbers differ: what was computed once a question
                is then copied for its answers. None: the same number of answers each.
        """
        attentions = [cast(AnswerLayer, layer).cross_attention for layer in self.layers]
        layers = [linear for attention in attentions for linear in (attention.key, attention.value)]
        projected = project_together(question_states, layers)  # (B, L, layers * 2 * H)
        keys_values = projected.unflatten(-1, (len(attentions), 2, attentions[0].heads, -1)).unbind(2)
        if rows is not None:
            keys_values = tuple(states.index_select(0, rows) for states in keys_values)
            question_mask = question_mask.index_select(0, rows)
        return Questions(keys_values, token_mask(question_mask, question_states.dtype))

    def forward(self, answer_ids: Tensor, questions: Questions, positions: Tensor | None = None) -> Tensor:
        """States that predict the next word.

        Padding needs no mask: it comes last, and no token reads what is after it.

        Args:
            answer_ids: (R, T) from [CLS] on; the answers of question 0, then those of question 1 and so on, as many of
                each (one, where `read` was given rows).
            questions: from `read`.
            positions: (N,) flat positions r * T + t of the states that are read; None reads all.

        Returns: (N, H), or (R, T, H) without `positions`.
        """
        hidden = self.embeddings(answer_ids)
        causal, last = _causal_mask(hidden), len(self.layers) - 1
        for number, (layer, key_value) in enumerate(zip(self.layers, questions.keys_values, strict=True)):
            hidden = layer(hidden, causal, key_value, questions.mask, positions if number == last else None)
        return hidden

    def predict(self, states: Tensor) -> WordLogits:
        """Logits of all words, in factors, of states (N, H)."""
        return WordLogits(self.head(states), self.embeddings.word.weight, self.head.bias)


def _causal_mask(hidden: Tensor) -> Tensor:
    """(1, 1, T, T) for states (R, T, H): 0 where a token may attend, -inf at the tokens after it."""
    length = hidden.shape[1]
    padded = hidden.new_full((length, length + -length % ALIGNED), -math.inf).triu(1)
    return padded[None, None, :, :length]
