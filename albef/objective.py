"""The pretraining objective: the three losses, the teacher, the queue, and every part that the paper ablates."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig:
    """The switches and numbers of the pretraining objective (paper, sections 3.2 and 3.3, table 1)."""

    itc: bool = True
    """Image-text contrastive loss."""
    itm: bool = True
    """Image-text matching loss."""
    mlm: bool = True
    """Masked language modelling loss."""
    hard_negatives: bool = True
    """Draw the matching loss's negatives by contrastive similarity; otherwise uniformly from the batch."""
    distill_itc: bool = True
    """Mix the teacher's soft targets into the contrastive loss, by alpha."""
    distill_mlm: bool = True
    """Mix the teacher's soft targets into the masked language modelling loss, by alpha."""
    alpha: float = 0.4
    """Weight of the teacher's soft targets after the ramp."""
    momentum: float = 0.995
    """Decay of the teacher's exponential moving average, per optimizer step."""
    queue_size: int = 65_536
    """Teacher features kept per modality as extra candidates. It need not be a multiple of the batch."""
    mlm_probability: float = 0.15
    """Probability that a token is chosen for the masked language modelling loss."""
    max_text_tokens: int = 25
    """Cut texts to this many tokens, [CLS] included."""
    teacher_dropout: bool = False
    """Keep dropout on in the teacher's text layers, as the original does (preset `paper`)."""
    queue_check_every: int = 1_000
    """Compare the checksums of the queue across ranks every N steps; 0 disables."""
