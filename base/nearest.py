"""The nearest valid name, for hints."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str]) -> str | None:
    """The valid name most similar to `name`, or None when none is similar.

    Compared as a whole and by the part after the last dot, so that `lr` and `optm.lr` both find `optim.lr`.
    """
    names = list(valid)
    folded = {candidate.lower().replace("-", "_"): candidate for candidate in names}
    key = name.lower().replace("-", "_")
    if close := difflib.get_close_matches(key, folded, n=1, cutoff=0.75):
        return folded[close[0]]
    leaf = key.rsplit(".", 1)[-1]
    leaves = {candidate.rsplit(".", 1)[-1]: folded[candidate] for candidate in reversed(folded)}
    if close := difflib.get_close_matches(leaf, leaves, n=1, cutoff=0.75):
        return leaves[close[0]]
    if close := difflib.get_close_matches(key, folded, n=1, cutoff=0.5):
        return folded[close[0]]
    return None


def did_you_mean(name: str, valid: Iterable[str], *, prefix: str = "") -> str:
    """`did you mean X? ` with the blank after it, or an empty string when no valid name is similar."""
    close = nearest(name, valid)
    return f"did you mean {prefix}{close}? " if close else ""
