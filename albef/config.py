"""What a user chooses of a model: its widths and depths, its pretraining objective, and its starting weights.

Plain dataclasses: reading a recipe imports neither torch nor timm.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from albef.errors import ConfigError
from samples.quote import quote

LIMITS: dict[str, tuple[float, float]] = {
    "image_size": (1, 16_384),
    "patch_size": (1, 16_384),
    "vision_width": (1, 65_536),
    "vision_depth": (1, 128),
    "vision_heads": (1, 65_536),
    "vocab_size": (1, 10_000_000),
    "text_width": (1, 65_536),
    "text_depth": (1, 128),
    "fusion_depth": (1, 128),
    "text_heads": (1, 65_536),
    "text_ffn_width": (1, 1_048_576),
    "max_text_positions": (1, 1_048_576),
    "hidden_dropout": (0, 1),
    "attention_dropout": (0, 1),
    "layer_init_std": (1e-6, 100),
    "embed_dim": (1, 65_536),
    "temperature": (1e-6, 1_000),
    "pad_token_id": (0, 10_000_000),
    "cls_token_id": (0, 10_000_000),
    "mask_token_id": (0, 10_000_000),
}
"""Smallest and largest value of each field: wider than any model that is trained, and small enough that a mistake shows
at once. A config is often read from a file that someone else wrote, and building a model of a million layers takes
hours.
"""


@dataclass(frozen=True, kw_only=True)
class AlbefConfig:
    """Widths and depths of the three encoders and the heads (paper, section 3.1). The defaults are `base`."""

    image_size: int = 256
    """Side of the square input image, pixels."""
    patch_size: int = 16
    """Side of one patch, pixels; divides image_size."""
    vision_width: int = 768
    """Width of the image encoder."""
    vision_depth: int = 12
    """Layers of the image encoder."""
    vision_heads: int = 12
    """Attention heads of the image encoder; divides vision_width."""
    vocab_size: int = 30_522
    """Entries of the word-piece vocabulary."""
    text_width: int = 768
    """Width of the text encoder and of the multimodal encoder."""
    text_depth: int = 6
    """Layers of the text encoder (BERT's first half)."""
    fusion_depth: int = 6
    """Layers of the multimodal encoder (BERT's second half, with cross-attention)."""
    text_heads: int = 12
    """Attention heads of the text and multimodal layers; divides text_width."""
    text_ffn_width: int = 3_072
    """Width of the feed-forward layers of the text and multimodal layers."""
    max_text_positions: int = 512
    """Rows of the text position embedding: the length in tokens of the longest text that the model can take."""
    hidden_dropout: float = 0.1
    """Dropout on embeddings and on the output of attention and feed-forward, text and multimodal layers."""
    attention_dropout: float = 0.1
    """Dropout on attention weights, text and multimodal layers. The image encoder has none."""
    layer_init_std: float = 0.02
    """Standard deviation of the random initial weights of text and multimodal layers. 0.02 is BERT's, for a width of
    768. Narrower layers need a larger one: otherwise the features of all texts are alike at the start, and stay so."""
    embed_dim: int = 256
    """Width of the joint space in which image and text features are compared."""
    temperature: float = 0.07
    """Initial contrastive temperature. It is learned, and clamped to [0.001, 0.5] in the forward."""
    pad_token_id: int = 0
    """[PAD]; never masked, hidden from attention."""
    cls_token_id: int = 101
    """[CLS], the first token of every text; never masked."""
    mask_token_id: int = 103
    """[MASK]."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(AlbefConfig):
            _check_value(field.name, getattr(self, field.name), whole=field.type == "int")
        for token in ("pad_token_id", "cls_token_id", "mask_token_id"):
            if getattr(self, token) >= self.vocab_size:
                raise ConfigError(
                    f"model: {token} {getattr(self, token)} is not in a vocabulary of {self.vocab_size} entries",
                    f"choose a {token} below vocab_size",
                )
        for whole, part in (
            ("image_size", "patch_size"),
            ("vision_width", "vision_heads"),
            ("text_width", "text_heads"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise ConfigError(
                    f"model: {whole} {getattr(self, whole)} is not a multiple of {part} {getattr(self, part)}",
                    f"choose a {whole} that {getattr(self, part)} divides, or another {part}",
                )

    @property
    def num_patches(self) -> int:
        """Patches of one image, without the class token."""
        return (self.image_size // self.patch_size) ** 2

    @classmethod
    def base(cls, **changes: Any) -> AlbefConfig:
        """ViT-B/16 and BERT-base, the paper's model: 209,937,725 trainable parameters at 256 px."""
        return cls(**changes)

    @classmethod
    def tiny(cls, **changes: Any) -> AlbefConfig:
        """A model two CPU cores can train in minutes; same parts, same code, real vocabulary."""
        small: dict[str, Any] = {
            "image_size": 64,
            "patch_size": 8,
            "vision_width": 192,
            "vision_depth": 4,
            "vision_heads": 3,
            "text_width": 192,
            "text_depth": 2,
            "fusion_depth": 2,
            "text_heads": 3,
            "text_ffn_width": 768,
            "max_text_positions": 64,
            "layer_init_std": 0.06,
            "embed_dim": 128,
        }
        return cls(**(small | changes))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> AlbefConfig:
        """The config written by `to_dict`.

        Raises: ConfigError that names unknown or missing keys, or a value outside its limits. A missing key gets no
            default: the number of heads does not show in the weights' shapes, so a wrong default would load them and
            compute something else.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        for what, keys in (
            ("has unknown keys", sorted(str(key) for key in values if key not in names)),
            ("lacks keys", [name for name in names if name not in values]),
        ):
            if keys:
                raise ConfigError(
                    f"model config {what}: {quote(', '.join(keys))}",
                    "it was written by another version, or it is not the config.json of an ALBEF",
                )
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON or YAML; what a subclass adds is no part of the model's shape."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(AlbefConfig)}


def _check_value(name: str, value: object, *, whole: bool) -> None:
    """Raise a ConfigError unless the field's value is a number of its kind within its limits."""
    least, most = LIMITS[name]
    kinds = (int,) if whole else (int, float)
    if isinstance(value, kinds) and not isinstance(value, bool) and least <= value <= most:  # NaN is in no limits
        return
    if isinstance(value, int) and abs(value) > 1e30:
        shown = "beyond all measure"  # Python raises on printing an integer of thousands of digits
    elif isinstance(value, int | float):
        shown = str(value)
    else:
        shown = f"{quote(repr(value), 40)} ({type(value).__name__})"
    raise ConfigError(
        f"model: {name} is {shown}, not a {'whole number' if whole else 'number'} from {least:,} to {most:,}",
        f"give {name} a value in these limits",
    )


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


@dataclass(frozen=True, kw_only=True)
class InitConfig:
    """Where the starting weights come from; parts that are not named start from random weights."""

    image: str | None = None
    """Image encoder: a timm or DeiT state dict (.pth, .safetensors), or `hub:NAME` to have timm fetch it, such as
    hub:deit_base_patch16_224."""
    text: str | None = None
    """Text and multimodal encoders: a BERT state dict (.safetensors, .bin, .pth), or a folder that holds one with its
    config.json."""


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """Momentum distillation in a task after pretraining (paper, section 3.3; section 4 for the tasks)."""

    distill: bool = True
    """Mix a momentum teacher's soft targets into the loss, by alpha."""
    alpha: float = 0.4
    """Weight of the teacher's soft targets after the ramp."""
    momentum: float = 0.995
    """Decay of the teacher's exponential moving average, per optimizer step."""
    teacher_dropout: bool = False
    """Keep dropout on in the teacher's text layers, as the original does (preset `paper`)."""


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(DistillConfig):
    """The objective of retrieval, and of grounding, which trains the same."""

    queue_size: int = 65_536
    """Teacher features kept per modality as extra candidates, with the ids of their images."""
    queue_check_every: int = 1_000
    """Compare the checksums of the queue across ranks every N steps; 0 disables."""


@dataclass(frozen=True, kw_only=True)
class VqaConfig(DistillConfig):
    """The objective of visual question answering, and how its model ranks answers."""

    first_token_twice: bool = False
    """Count the first token of an answer twice when ranking, as the original does (preset `paper`)."""


@dataclass(frozen=True, kw_only=True)
class Nlvr2Config(DistillConfig):
    """The objective of NLVR2."""

    teacher_before_load: bool = False
    """Start the teacher from the weights before pretrained ones are loaded, as the original does (preset `paper`)."""
