"""BERT's building blocks: dropout, the feed-forward half of a layer, and the head of masked language modelling.

Text encoder and multimodal encoder share them. (The matching head and the projections are single linear layers.)
"""

# R rows (texts), L text tokens, H width, N masked tokens

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import AlbefConfig

BERT_NORM_EPS = 1e-12
"""LayerNorm epsilon of BERT; the image encoder's is 1e-6."""


BERT_INIT_STD = 0.02
"""Standard deviation of BERT's random initial weights."""


class Dropout(nn.Dropout):
    """`nn.Dropout` as one operation on a CPU too (there it is three), which keeps one byte a value for the backward."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return dropped(input, self.p) if self.training else input


def dropped(tensor: Tensor, probability: float) -> Tensor:
    """Dropout of a tensor of any shape: zero with `probability`, else scaled to keep the mean."""
    return torch.native_dropout(tensor, probability, True)[0] if probability else tensor


class FeedForward(nn.Module):
    """BERT's feed-forward half: up, exact GELU, down, dropout, residual, norm."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.text_width, config.text_ffn_width)
        self.down = nn.Linear(config.text_ffn_width, config.text_width)
        self.norm = nn.LayerNorm(config.text_width, eps=BERT_NORM_EPS)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """(R, L, H) to (R, L, H)."""
        return self.norm(hidden + self.dropout(self.down(F.gelu(self.up(hidden)))))


def initialise_bert(module: nn.Module, std: float = BERT_INIT_STD) -> None:
    """BERT's initialisation of all below `module`: N(0, std) matrices, N(0, 0.02) embeddings, zero biases, norms 1."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=std if isinstance(part, nn.Linear) else BERT_INIT_STD)
        if isinstance(part, nn.Linear) and part.bias is not None:
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


class MlmHead(nn.Module):
    """BERT's prediction head without its decoder, which is the word embedding: there is one such parameter."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.text_width, config.text_width)
        self.norm = nn.LayerNorm(config.text_width, eps=BERT_NORM_EPS)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        initialise_bert(self)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, H) states at masked positions to (N, H) ones whose products with the word embeddings, plus `bias`, are
        the logits."""
        transformed: Tensor = self.norm(F.gelu(self.transform(hidden)))
        return transformed
