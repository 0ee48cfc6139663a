"""BERT's building blocks: the two halves of a layer, and the head of masked language modelling.

Text encoder and multimodal encoder share them. (The matching head and the projections are single linear layers.)
"""

# R rows (texts), L text tokens, T context tokens, H width, C context width, h heads, d = H / h
# N masked tokens, V vocabulary

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import AlbefConfig

BERT_NORM_EPS = 1e-12
"""LayerNorm epsilon of BERT; the image encoder's is 1e-6."""


BERT_INIT_STD = 0.02
"""Standard deviation of BERT's random initial weights."""


class Attention(nn.Module):
    """Multi-head attention, followed by BERT's residual and norm (Devlin et al. 2019; post-norm).

    Projection and attention are separate methods, because the multimodal encoder projects the keys and values of an
    image once and lets several texts attend to them.
    """

    def __init__(self, config: AlbefConfig, *, context_width: int) -> None:
        super().__init__()
        width = config.text_width
        self.heads = config.text_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)
        self.output = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=BERT_NORM_EPS)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.attention_dropout = config.attention_dropout
        self.keep_weights = False
        """Grad-CAM sets this: attention is then computed unfused, and kept in `weights` with its gradient."""
        self.weights: Tensor | None = None

    def split_heads(self, tensor: Tensor) -> Tensor:
        """(R, L, H) to (R, h, L, d), a view."""
        return tensor.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project_keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (R, h, T, d), of a context (R, T, C)."""
        return self.split_heads(self.key(context)), self.split_heads(self.value(context))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention of projected queries (R, L, H) over (R, h, T, d) keys and values.

        Args:
            mask: boolean, broadcast to (R, h, L, T), True where a token may be attended to; None allows all.

        Returns: (R, L, H), before the output projection.
        """
        query = self.split_heads(query)  # (R, h, L, d)
        dropout = self.attention_dropout if self.training else 0.0
        if self.keep_weights:
            scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # (R, h, L, T)
            if mask is not None:
                scores = scores.masked_fill(~mask, -math.inf)
            self.weights = scores.softmax(dim=-1)
            if self.weights.requires_grad:
                self.weights.retain_grad()
            attended = F.dropout(self.weights, dropout) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
        return attended.transpose(1, 2).flatten(2)

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection, dropout, residual and norm: (R, L, H) each."""
        return self.norm(hidden + self.dropout(self.output(attended)))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Self-attention of (R, L, H) under a boolean mask broadcast to (R, h, L, L)."""
        key, value = self.project_keys_values(hidden)
        return self.finish(hidden, self.attend(self.query(hidden), key, value, mask))


class FeedForward(nn.Module):
    """BERT's feed-forward half: up, exact GELU, down, dropout, residual, norm."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.text_width, config.text_ffn_width)
        self.down = nn.Linear(config.text_ffn_width, config.text_width)
        self.norm = nn.LayerNorm(config.text_width, eps=BERT_NORM_EPS)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        """(R, L, H) to (R, L, H)."""
        return self.norm(hidden + self.dropout(self.down(F.gelu(self.up(hidden)))))


def token_mask(attention_mask: Tensor) -> Tensor:
    """Boolean (R, 1, 1, L), True at tokens, from 1 / 0 (R, L): every query may attend to every token, never to padding.

    Queries at padding attend to the tokens too, so their (unused) states stay finite.
    """
    return attention_mask.bool()[:, None, None, :]


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
