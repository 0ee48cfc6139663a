"""BERT's building blocks: the two halves of a layer, and the head of masked language modelling.

Text encoder and multimodal encoder share them. (The matching head and the projections are single linear layers.)
"""

# R rows (texts), L text tokens, T context tokens, H width, C context width, h heads, d = H / h
# N masked tokens

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.precision import wide_dtype

BERT_NORM_EPS = 1e-12
"""LayerNorm epsilon of BERT; the image encoder's is 1e-6."""


BERT_INIT_STD = 0.02
"""Standard deviation of BERT's random initial weights."""


ALIGNED = 8
"""A mask's rows start at multiples of this many elements: torch's memory-efficient attention copies others per call."""


class Dropout(nn.Dropout):
    """`nn.Dropout` as one operation on a CPU too (there it is three), which keeps one byte a value for the backward."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape."""
        return dropped(input, self.p) if self.training else input


def dropped(tensor: Tensor, probability: float) -> Tensor:
    """Dropout of a tensor of any shape: zero with `probability`, else scaled to keep the mean."""
    return torch.native_dropout(tensor, probability, True)[0] if probability else tensor


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
        self.dropout = Dropout(config.hidden_dropout)
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
            mask: added to the scores, broadcast to (R, h, L, T), of the queries' type; None allows all (`token_mask`).

        Returns: (R, L, H), before the output projection.
        """
        query = self.split_heads(query)  # (R, h, L, d)
        dropout = self.attention_dropout if self.training else 0.0
        # On a CPU no fused kernel has dropout, and torch's own unfused form takes twice the operations of this one.
        if self.keep_weights or (dropout and query.device.type == "cpu"):
            attended = self._attend_unfused(query, key, value, mask, dropout)
        else:
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
            attended = attended.transpose(1, 2)
        return attended.flatten(2)

    def _attend_unfused(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        """The same as (R, L, h, d), with the attention matrix in memory; in fp32 at least, as fused kernels compute."""
        dtype, wide = query.dtype, wide_dtype(query.dtype)
        # contiguous, as the products need them, in the same operation that widens bf16
        query, key, value = (tensor.to(wide, memory_format=torch.contiguous_format) for tensor in (query, key, value))
        scores = query @ key.transpose(-1, -2)  # (R, h, L, T)
        scale = 1 / math.sqrt(query.shape[-1])
        weights = (scores * scale if mask is None else torch.add(mask, scores, alpha=scale)).softmax(dim=-1)
        if self.keep_weights:
            self.weights = weights
            if weights.requires_grad:
                weights.retain_grad()
        return (dropped(weights, dropout) @ value).transpose(1, 2).to(dtype, memory_format=torch.contiguous_format)

    def finish(self, hidden: Tensor, attended: Tensor) -> Tensor:
        """Output projection, dropout, residual and norm: (R, L, H) each."""
        return self.norm(hidden + self.dropout(self.output(attended)))

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Self-attention of (R, L, H) under a mask that is added to the scores, broadcast to (R, h, L, L)."""
        key, value = self.project_keys_values(hidden)
        return self.finish(hidden, self.attend(self.query(hidden), key, value, mask))


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


def token_mask(attention_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What `Attention` adds to its scores, (R, 1, 1, L): 0 at tokens, -inf at padding, from 1 / 0 (R, L).

    Queries at padding attend to the tokens too, so their (unused) states stay finite: no row is padding throughout.

    Args:
        dtype: of the scores, which is that of the weights.
    """
    padded = F.pad(attention_mask, (0, -attention_mask.shape[1] % ALIGNED)).to(dtype)
    return padded.log()[:, None, None, : attention_mask.shape[1]]


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
