"""The text encoder: BERT's embeddings and the first half of its layers."""

# R rows (texts), L text tokens, H width

from __future__ import annotations

import torch
from torch import Tensor, nn

from albef.config import AlbefConfig
from albef.network.attention import Attention, token_mask
from albef.network.layers import BERT_NORM_EPS, Dropout, FeedForward, initialise_bert


class TextEmbeddings(nn.Module):
    """Word, position and token-type embeddings, summed, normalised, with dropout. All tokens are of type 0."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        # padding_idx as in BERT: [PAD] gets no gradient, also where a random replacement is [PAD]
        self.word = nn.Embedding(config.vocab_size, config.text_width, padding_idx=config.pad_token_id)
        self.position = nn.Embedding(config.max_text_positions, config.text_width)
        self.token_type = nn.Embedding(2, config.text_width)
        self.norm = nn.LayerNorm(config.text_width, eps=BERT_NORM_EPS)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, input_ids: Tensor) -> Tensor:
        """(R, L) token ids to (R, L, H)."""
        places = self.position.weight[: input_ids.shape[1]] + self.token_type.weight[0]  # (L, H), before the rows
        return self.dropout(self.norm(self.word(input_ids) + places))


class TextLayer(nn.Module):
    """One BERT layer: self-attention, feed-forward."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config, context_width=config.text_width)
        self.ffn = FeedForward(config)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(R, L, H) under a mask (R, 1, 1, L) from `token_mask`."""
        return self.ffn(self.self_attention(hidden, mask))


class TextEncoder(nn.Module):
    """BERT's embeddings and `text_depth` layers (paper, section 3.1: the first six of BERT-base)."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.embeddings = TextEmbeddings(config)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.text_depth))
        initialise_bert(self, config.layer_init_std)
        with torch.no_grad():
            self.embeddings.word.weight[config.pad_token_id].zero_()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(R, L) ids and 1 / 0 mask to (R, L, H); states at padding are finite and meaningless."""
        hidden = self.embeddings(input_ids)
        mask = token_mask(attention_mask, hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return hidden
