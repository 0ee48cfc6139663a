"""The masked language modelling head. (The matching head and the projections are single linear layers.)"""

# N masked tokens, H width, V vocabulary

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.layers import BERT_NORM_EPS, initialise_bert


class MlmHead(nn.Module):
    """BERT's prediction head; its decoder is the word embedding, an argument, so that there is one such parameter."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.text_width, config.text_width)
        self.norm = nn.LayerNorm(config.text_width, eps=BERT_NORM_EPS)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        initialise_bert(self)

    def forward(self, hidden: Tensor, word_embeddings: Tensor) -> Tensor:
        """(N, H) states at masked positions and (V, H) word embeddings to (N, V) logits."""
        return F.linear(self.norm(F.gelu(self.transform(hidden))), word_embeddings, self.bias)
