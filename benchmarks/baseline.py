"""The pretraining step of ALBEF as plainly as it can be written: what our step is compared with, in numbers and speed.

Written from the paper (Li et al. 2021, section 3) and a description of the published code. Each loss makes its own
passes: the text encoder reads the clean and the masked texts one after the other, the multimodal encoder the pairs,
then the negatives, then the masked texts. Logits are whole: (B, B+Q) against the queue, (B, L, V) over the vocabulary
at every position. Negatives are drawn row by row, teacher and optimizer go parameter by parameter, and attention is
two matrix products with a softmax between them. fp32; a GPU's second reference is the same under torch.autocast.

Nothing of `albef.network`, `albef.objective` or DeepSpeed is used. Parameters have the names and shapes of
`albef.model.AlbefForPretraining`, so that both start from one `state_dict`; tests/benchmarks/test_baseline.py compares
losses, gradients, weights, teacher and queue. Differences from the published code: the teacher drops out only where
`objective.teacher_dropout` says so, its average moves after the optimizer's step instead of before its next forward
(the same sequence), a row's own partner leaves the draw of negatives before the softmax, and the queue is a ring.
"""

# B batch, L text tokens, P patches, D image width, H text width, h heads, E embedding, Q queue, V vocabulary

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.batch import PretrainBatch

IGNORED = -100
"""The label of a position that is not predicted."""


class Losses(NamedTuple):
    """Scalars in nats."""

    itc: Tensor
    itm: Tensor
    mlm: Tensor

    @property
    def total(self) -> Tensor:
        """Their sum, unweighted."""
        return self.itc + self.itm + self.mlm


class BaselineStep:
    """Student, teacher, queue and optimizer, and the step that moves them.

    Args:
        weights: the `state_dict` of an `AlbefForPretraining` of this shape.
        objective: all three losses must be on, with hard negatives and both distillations.
        queue: (2, Q, E) L2-normalised rows of images and of texts to start from.
        decayed: names of the parameters that weight decay applies to.
        autocast: compute in bf16 where torch.autocast does so.

    Raises: ValueError when the objective has a switch off.
    """

    def __init__(
        self,
        config: AlbefConfig,
        objective: ObjectiveConfig,
        weights: dict[str, Tensor],
        queue: Tensor,
        *,
        device: torch.device | str = "cpu",
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        decayed: set[str],
        autocast: bool = False,
    ) -> None:
        switches = ("itc", "itm", "mlm", "hard_negatives", "distill_itc", "distill_mlm")
        if off := [name for name in switches if not getattr(objective, name)]:
            raise ValueError(f"the baseline is the paper's whole objective; objective.{off[0]} is off")
        self.objective, self.autocast = objective, autocast
        self.student = Student(config)
        self.student.load_state_dict(weights)
        self.student.to(device).train()
        self.teacher = Encoders(config)
        self.teacher.load_state_dict({name: weights[name] for name in self.teacher.state_dict()})
        self.teacher.to(device).requires_grad_(False).train(objective.teacher_dropout)
        self.image_queue, self.text_queue = queue.to(device, copy=True).unbind()  # (Q, E) each
        self.pointer = 0
        named = dict(self.student.named_parameters())
        groups = [
            {"params": [parameter for name, parameter in named.items() if name not in decayed], "weight_decay": 0.0},
            {"params": [named[name] for name in named if name in decayed], "weight_decay": weight_decay},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps)  # not fused

    def __call__(self, batch: PretrainBatch, *, alpha: float, negatives: tuple[Tensor, Tensor] | None = None) -> Losses:
        """Take one step. The gradients stay in the student's `.grad` until the next.

        Args:
            batch: on the device.
            alpha: weight of the teacher's soft targets.
            negatives: (B,) image for each text and (B,) text for each image, instead of the draw.

        Returns: the losses before the step, without gradient.
        """
        batch = batch.normalised()
        self.optimizer.zero_grad()
        with torch.autocast(batch.image.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            losses, features = self.losses(batch, alpha, negatives)
        losses.total.backward()
        self.optimizer.step()
        self.enqueue(*features)
        self.move_teacher()
        return Losses(*(loss.detach() for loss in losses))

    def losses(
        self, batch: PretrainBatch, alpha: float, negatives: tuple[Tensor, Tensor] | None
    ) -> tuple[Losses, tuple[Tensor, Tensor]]:
        """The three losses (paper, section 3.2, with section 3.3's soft targets), and the teacher's features."""
        student, teacher, mask = self.student, self.teacher, batch.attention_mask
        with torch.no_grad():
            student.temperature.clamp_(0.001, 0.5)
        size = batch.image.shape[0]

        # Image-text contrastive loss: student features against the teacher's, of this batch and of the queue
        images = student.image_encoder(batch.image)  # (B, 1+P, D)
        texts = student.text_encoder(batch.input_ids, mask)  # (B, L, H)
        image_feat = F.normalize(student.image_proj(images[:, 0]), dim=-1)  # (B, E)
        text_feat = F.normalize(student.text_proj(texts[:, 0]), dim=-1)
        with torch.no_grad():
            teacher_images = teacher.image_encoder(batch.image)
            teacher_texts = teacher.text_encoder(batch.input_ids, mask)
            teacher_image_feat = F.normalize(teacher.image_proj(teacher_images[:, 0]), dim=-1)
            teacher_text_feat = F.normalize(teacher.text_proj(teacher_texts[:, 0]), dim=-1)
            all_images = torch.cat([teacher_image_feat, self.image_queue])  # (B+Q, E)
            all_texts = torch.cat([teacher_text_feat, self.text_queue])
            one_hot = torch.zeros(size, len(all_images), device=images.device)  # (B, B+Q)
            one_hot.fill_diagonal_(1)
            teacher_i2t = teacher_image_feat @ all_texts.T / student.temperature
            teacher_t2i = teacher_text_feat @ all_images.T / student.temperature
            targets_i2t = alpha * F.softmax(teacher_i2t, dim=1) + (1 - alpha) * one_hot
            targets_t2i = alpha * F.softmax(teacher_t2i, dim=1) + (1 - alpha) * one_hot
        sim_i2t = image_feat @ all_texts.T / student.temperature  # (B, B+Q)
        sim_t2i = text_feat @ all_images.T / student.temperature
        loss_i2t = -torch.sum(F.log_softmax(sim_i2t, dim=1) * targets_i2t, dim=1).mean()
        loss_t2i = -torch.sum(F.log_softmax(sim_t2i, dim=1) * targets_t2i, dim=1).mean()

        # Image-text matching: the pairs, each text with a negative image, each image with a negative text
        if negatives is None:
            negatives = draw(sim_t2i[:, :size]), draw(sim_i2t[:, :size])
        other_image, other_text = negatives
        positive = student.multimodal_encoder(texts, mask, images)
        negative = student.multimodal_encoder(
            torch.cat([texts, texts[other_text]]),
            torch.cat([mask, mask[other_text]]),
            torch.cat([images[other_image], images]),
        )
        matching = student.itm_head(torch.cat([positive[:, 0], negative[:, 0]]))  # (3B, 2)
        labels = torch.cat([torch.ones(size), torch.zeros(2 * size)]).long().to(images.device)

        # Masked language modelling: predictions at all positions, of which the chosen ones count
        masked = student.multimodal_encoder(student.text_encoder(batch.mlm_input_ids, mask), mask, images)
        logits = student.mlm_head(masked, student.text_encoder.embeddings.word.weight)  # (B, L, V)
        with torch.no_grad():
            masked = teacher.text_encoder(batch.mlm_input_ids, mask)
            masked = teacher.multimodal_encoder(masked, mask, teacher_images)
            soft = F.softmax(teacher.mlm_head(masked, teacher.text_encoder.embeddings.word.weight), dim=-1)
        chosen = torch.full_like(batch.input_ids, IGNORED).flatten()  # (B * L,)
        chosen[batch.mlm_positions] = batch.mlm_labels
        hard_loss = F.cross_entropy(logits.flatten(0, 1), chosen, ignore_index=IGNORED)
        soft_loss = -torch.sum(F.log_softmax(logits, dim=-1) * soft, dim=-1)  # (B, L)
        soft_loss = soft_loss.flatten()[chosen != IGNORED].mean()

        losses = Losses(
            itc=(loss_i2t + loss_t2i) / 2,
            itm=F.cross_entropy(matching, labels),
            mlm=(1 - alpha) * hard_loss + alpha * soft_loss,
        )
        return losses, (teacher_image_feat, teacher_text_feat)

    @torch.no_grad()
    def enqueue(self, image_feat: Tensor, text_feat: Tensor) -> None:
        """Write the teacher's features over the oldest rows."""
        size = len(image_feat)
        rows = (self.pointer + torch.arange(size, device=image_feat.device)) % len(self.image_queue)
        self.image_queue[rows] = image_feat.to(self.image_queue)
        self.text_queue[rows] = text_feat.to(self.text_queue)
        self.pointer = (self.pointer + size) % len(self.image_queue)

    @torch.no_grad()
    def move_teacher(self) -> None:
        """p_m = m p_m + (1 - m) p, one parameter after the other, each a new tensor (paper, section 3.3)."""
        momentum, student = self.objective.momentum, dict(self.student.named_parameters())
        for name, average in self.teacher.named_parameters():
            average.data = momentum * average.data + (1 - momentum) * student[name].data


def draw(similarity: Tensor) -> Tensor:
    """A negative for each row, by a draw from the softmax of its row without its partner (paper, section 3.2).

    Args:
        similarity: (B, B) logits, row b's partner in column b; B is 2 or more.

    Returns: (B,) int64.
    """
    weights = F.softmax(similarity.detach().float().clone().fill_diagonal_(-math.inf), dim=1)
    drawn = [int(torch.multinomial(row, 1).item()) for row in weights]
    return torch.tensor(drawn, device=similarity.device)


class Encoders(nn.Module):
    """What the teacher averages; its parameters have the names of `albef.network.encoders.AlbefEncoders`."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.image_encoder = ImageEncoder(config)
        self.text_encoder = TextEncoder(config)
        self.multimodal_encoder = MultimodalEncoder(config)
        self.image_proj = nn.Linear(config.vision_width, config.embed_dim)
        self.text_proj = nn.Linear(config.text_width, config.embed_dim)
        self.mlm_head = MlmHead(config)


class Student(Encoders):
    """The encoders, the matching head and the temperature."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(config)
        self.itm_head = nn.Linear(config.text_width, 2)
        self.temperature = nn.Parameter(torch.full((1,), config.temperature))


class ImageEncoder(VisionTransformer):
    """timm's ViT-B/16: all tokens after the final norm; attention unfused, as the published code has it."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.vision_width,
            depth=config.vision_depth,
            num_heads=config.vision_heads,
            num_classes=0,
            global_pool="",
        )
        for block in self.blocks:
            attention: Any = block.attn
            attention.fused_attn = False

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]  # timm's takes masks that are not used here
        """(B, 3, H, W) normalised pixels to (B, 1+P, D)."""
        return self.forward_features(image)


class TextEncoder(nn.Module):
    """BERT's embeddings and its first layers."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.text_depth))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(B, L) ids and 1 / 0 mask to (B, L, H)."""
        hidden = self.embeddings(input_ids)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask)
        return hidden


class MultimodalEncoder(nn.Module):
    """BERT's last layers, with cross-attention from text to image."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MultimodalLayer(config) for _ in range(config.fusion_depth))

    def forward(self, texts: Tensor, attention_mask: Tensor, images: Tensor) -> Tensor:
        """(B, L, H) texts with their (B, L) mask, and (B, 1+P, D) images, to (B, L, H)."""
        for layer in self.layers:
            texts = layer(texts, attention_mask, images)
        return texts


class TextLayer(nn.Module):
    """Self-attention, feed-forward."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config, context_width=config.text_width)
        self.ffn = FeedForward(config)

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        return self.ffn(self.self_attention(hidden, hidden, attention_mask))


class MultimodalLayer(nn.Module):
    """Self-attention, attention to the image, feed-forward."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config, context_width=config.text_width)
        self.cross_attention = Attention(config, context_width=config.vision_width)
        self.ffn = FeedForward(config)

    def forward(self, hidden: Tensor, attention_mask: Tensor, images: Tensor) -> Tensor:
        hidden = self.self_attention(hidden, hidden, attention_mask)
        return self.ffn(self.cross_attention(hidden, images))


class Attention(nn.Module):
    """BERT's attention with residual and norm: matrix product, softmax, dropout, matrix product."""

    def __init__(self, config: AlbefConfig, *, context_width: int) -> None:
        super().__init__()
        self.heads = config.text_heads
        self.query = nn.Linear(config.text_width, config.text_width)
        self.key = nn.Linear(context_width, config.text_width)
        self.value = nn.Linear(context_width, config.text_width)
        self.output = nn.Linear(config.text_width, config.text_width)
        self.norm = nn.LayerNorm(config.text_width, eps=1e-12)
        self.weight_dropout = nn.Dropout(config.attention_dropout)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor, context: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """(B, L, H) queries over a (B, T, C) context; the (B, T) mask, 1 / 0, hides padding of the context."""
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, h, L or T, H/h)
            for part in (self.query(hidden), self.key(context), self.value(context))
        )
        scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])  # (B, h, L, T)
        if attention_mask is not None:
            scores = scores + (1.0 - attention_mask[:, None, None, :].to(scores)) * -10_000.0
        attended = self.weight_dropout(F.softmax(scores, dim=-1)) @ value
        return self.norm(hidden + self.dropout(self.output(attended.transpose(1, 2).flatten(2))))


class FeedForward(nn.Module):
    """BERT's feed-forward half with residual and norm."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.text_width, config.text_ffn_width)
        self.down = nn.Linear(config.text_ffn_width, config.text_width)
        self.norm = nn.LayerNorm(config.text_width, eps=1e-12)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(hidden + self.dropout(self.down(F.gelu(self.up(hidden)))))


class Embeddings(nn.Module):
    """Words, positions and the type of the first segment."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.word = nn.Embedding(config.vocab_size, config.text_width, padding_idx=config.pad_token_id)
        self.position = nn.Embedding(config.max_text_positions, config.text_width)
        self.token_type = nn.Embedding(2, config.text_width)
        self.norm = nn.LayerNorm(config.text_width, eps=1e-12)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, input_ids: Tensor) -> Tensor:
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        embedded = self.word(input_ids) + self.token_type(torch.zeros_like(input_ids)) + self.position(positions)
        return self.dropout(self.norm(embedded))


class MlmHead(nn.Module):
    """BERT's prediction head; the word embedding is its decoder."""

    def __init__(self, config: AlbefConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.text_width, config.text_width)
        self.norm = nn.LayerNorm(config.text_width, eps=1e-12)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, words: Tensor) -> Tensor:
        return F.linear(self.norm(F.gelu(self.transform(hidden))), words, self.bias)
