"""Tensors of any sizes as packs of a few million elements, for what is computed pack by pack to stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor


def packed(lists: Sequence[Sequence[Tensor]], most: int) -> Iterator[list[list[Tensor]]]:
    """Flat pieces of the tensors, in order, in packs of at most `most` elements of each list.

    Args:
        lists: the first sets the cuts; the others have the same shapes, or are empty. All are contiguous.

    Yields: for each list its pieces of the pack.
    """
    pieces = [[piece for tensor in tensors for piece in tensor.view(-1).split(most)] for tensors in lists]
    start = total = 0
    for index, piece in enumerate(pieces[0]):
        if total + len(piece) > most:
            yield [part[start:index] for part in pieces]
            start, total = index, 0
        total += len(piece)
    yield [part[start:] for part in pieces]
