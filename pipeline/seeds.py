"""Every random draw of a run has a name; its generator is seeded by a hash of that name, never by rank or worker."""

from __future__ import annotations

import hashlib

import torch


def derive(*parts: int | str) -> int:
    """A seed for the draw named by `parts`: 63 bits, the same in every process, Python and torch version.

    Args:
        parts: usually the run's seed, what is drawn, and where: `derive(seed, "mask", epoch, step, lane)`. Each is
            written with its type and length before it, so ("1", "23"), ("12", "3") and (1, 23) are three names.

    Returns: an int in [0, 2**63), as torch.Generator.manual_seed takes it.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        # bool is an int to Python: refused, since derive(True) == derive(1) would be a hidden collision.
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
    return torch.Generator().manual_seed(derive(*parts))


class Draws:
    """A stream of plain numbers from one named generator: what per-sample code (crop, flip, RandAugment) draws from.

    Numbers are drawn in blocks because one tensor call costs as much as sixty-four numbers.
    """

    _BLOCK = 64

    def __init__(self, *parts: int | str) -> None:
        self._generator = generator(*parts)
        self._left: list[float] = []

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """A number in [low, high)."""
        if not self._left:
            block = torch.rand(self._BLOCK, generator=self._generator, dtype=torch.float64)
            self._left = block.tolist()[::-1]
        return low + (high - low) * self._left.pop()

    def integer(self, count: int) -> int:
        """A whole number in 0 .. count-1."""
        return int(self.uniform() * count)
