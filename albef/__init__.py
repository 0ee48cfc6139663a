"""The ALBEF model: encoders, losses, momentum teacher, feature queue, weight converters.

May import torch, timm and transformers (the tokenizer), and what those bring (numpy, Pillow, safetensors).
Knows nothing of DeepSpeed, tar files, Slurm or command lines: `pipeline` trains it, `data_prep` feeds it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from albef.pretrained import Albef

__all__ = ["Albef"]


def __getattr__(name: str) -> Any:
    """`albef.Albef`, imported when it is asked for: `import albef.errors` must not wait for torch and transformers."""
    if name == "Albef":
        from albef.pretrained import Albef

        return Albef
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
