"""Which columns of a user's list are read, by name, and the error for one that is not there."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from base.errors import UsageError
from samples.quote import quote

ROWS_LOOKED_AT = 1000
"""A column counts as missing when none of this many first rows has it."""


@dataclass(frozen=True, kw_only=True)
class ListColumns:
    url: str = "url"
    """Column that holds the URL, or with `local` the path."""
    captions: tuple[str, ...] = ("caption",)
    """Columns that hold captions, each a text or a list of texts; all of them become the image's captions."""
    names: tuple[str, ...] | None = None
    """Names of the columns of a TSV or CSV without a header, in order."""
    id: str | None = None
    """Column with the source's own name for the image."""
    licence: str | None = None
    """Column with the image's licence."""
    local: bool = False
    """Whether `url` names a column of paths of local images, which are taken as they are."""

    @property
    def wanted(self) -> tuple[str, ...]:
        """Names of all columns that are read, each once, that of the URL first."""
        notes = (name for name in (self.id, self.licence) if name is not None)
        return tuple(dict.fromkeys((self.url, *self.captions, *notes)))


def check_columns(path: Path, wanted: Collection[str], names: Sequence[str]) -> None:
    """Raises: UsageError for a wanted column that the list lacks or has twice."""
    for name in wanted:
        if names.count(name) > 1:
            raise UsageError(
                f"{path.name} has {names.count(name)} columns named {quote(name)}", "give each its own name"
            )
        if name not in names:
            nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
            hint = f"did you mean {quote(nearest[0])}? " if nearest else ""
            raise UsageError(
                f"{path.name} has no column {quote(name)!r}",
                f"{hint}its columns are {quote(', '.join(names))}: see --url-col, --path-col, --caption-col, --id-col, "
                "--licence-col; --columns names those of a TSV or CSV without a header",
            )
