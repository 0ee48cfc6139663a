"""Every random draw of a run has a name, and a hash of that name seeds it, never the rank or the worker.

torch is imported only when a torch generator is needed: `pipeline order` names samples without it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(*parts: int | str) -> int:
    """A seed for the draw named by `parts`: 63 bits, the same in every process, Python and torch version.

    Args:
        parts: usually the run's seed, what is drawn, and for which step or sample: `derive(seed, "negatives", epoch,
            step, lane)`. Each is written with its type and length before it, so ("1", "23"), ("12", "3") and (1, 23)
            are three names.

    Returns: an int in [0, 2**63), as torch.Generator.manual_seed takes it.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        # bool is an int to Python, but an error here: derive(True) == derive(1) would be a hidden collision.
        if type(part) is int:
            kind, text = b"i", str(part).encode()
        elif type(part) is str:
            kind, text = b"s", part.encode("utf-8", "surrogatepass")
        else:
            raise TypeError(f"a seed is derived from int and str, not {type(part).__name__} ({part!r})")
        digest.update(kind + len(text).to_bytes(8, "little") + text)
    return int.from_bytes(digest.digest(), "little") >> 1


def generator(*parts: int | str) -> torch.Generator:
    """A CPU generator seeded by `derive(*parts)`."""
    import torch

    return torch.Generator().manual_seed(derive(*parts))


def splitmix64(keys: int | np.ndarray, count: int) -> np.ndarray:
    """(..., count) uint64: the first `count` outputs of splitmix64 for each state in `keys` (...), a hashed counter.

    Implemented here, so that no release of NumPy or torch can change the draws of a finished run.
    """
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is intended
        z = np.asarray(keys, dtype=np.uint64)[..., None] + golden * np.arange(1, count + 1, dtype=np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniforms(keys: int | np.ndarray, count: int) -> np.ndarray:
    """(..., count) float64 in [0, 1), 53 bits each: `count` draws for each key, all at once."""
    return (splitmix64(keys, count) >> np.uint64(11)) * 2.0**-53


class Draws:
    """A stream of plain numbers from one named generator, for per-sample code (crop, flip, RandAugment).

    Numbers are drawn in blocks because one tensor call costs as much as sixty-four numbers.
    """

    _BLOCK = 64

    def __init__(self, *parts: int | str) -> None:
        self._generator = generator(*parts)
        self._left: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        if not self._left:
            import torch

            block = torch.rand(self._BLOCK, generator=self._generator, dtype=torch.float64)
            self._left = block.tolist()[::-1]
        return low + (high - low) * self._left.pop()

    def integer(self, count: int) -> int:
        """A whole number in 0 .. count-1."""
        return int(self.uniform() * count)
