"""What every source has: facts with their origin, and a reader of its published files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.lists.row_list import keep_captions
from data_prep.lists.web_url import BadUrl, normalise_url


@dataclass(frozen=True, kw_only=True)
class ListedRow:
    """One image of a source, in the columns of the normalised list."""

    url: str | None = None
    path: str | None = None
    """Path of the image in the source's unpacked archives."""
    captions: list[str]
    id: str | None = None
    licence: str | None = None
    rejected: str | None = None
    """`reason: detail` for a row that cannot become a sample; it stays in the list."""


@dataclass(frozen=True, kw_only=True)
class ListOptions:
    """Choices when a source is listed."""

    split: str = "train"
    """COCO: train (Karpathy's train and restval), val or test."""
    min_region_area: int = 0
    """Visual Genome: phrases of regions with fewer square pixels are left out."""
    excluded_coco_ids: frozenset[int] = frozenset()
    """COCO and Visual Genome: images that are one of these COCO images are left out."""


Reader = Callable[[Sequence[Path], ListOptions, Counter[str]], Iterator[ListedRow]]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source and its facts. Each number has its origin beside it (docs/sources.md)."""

    name: str
    read: Reader
    """(files, options, left_out) -> rows in the files' order; rows left out by choice are counted in `left_out`."""
    options: tuple[str, ...] = ()
    """Names of the `ListOptions` that this source uses."""
    rows: int
    """Images in the published list."""
    rows_from: str
    expected_yield: float
    """Share of the rows that still become an image."""
    yield_when: str
    yield_from: str
    resolution: str
    """Of the published images."""
    resolution_from: str
    files: tuple[tuple[str, str], ...]
    """(name, format) of the files to download."""
    licence: str
    licence_from: str


def web_row(url: str, captions: Iterable[object], **notes: str | None) -> ListedRow:
    """A row whose image is downloaded: rejected without a usable URL or caption."""
    try:
        usable = normalise_url(url.encode("utf-8").decode("utf-8"))
    except UnicodeEncodeError:
        return ListedRow(captions=[], rejected=f"bad_url: not UTF-8: {ascii(url)[:100]}", **notes)
    except BadUrl as error:
        return ListedRow(captions=[], rejected=str(error), **notes)
    kept = keep_captions(usable, captions)
    return ListedRow(url=usable, captions=kept.captions, rejected=kept.rejected, **notes)


def local_row(path: str, url: str | None, captions: Iterable[object], **notes: str | None) -> ListedRow:
    """A row whose image comes in an archive; an unusable URL is left out."""
    try:
        usable = normalise_url(url) if url else None
    except (BadUrl, UnicodeEncodeError):
        usable = None
    kept = keep_captions(path, captions)
    return ListedRow(url=usable, path=kept.url or None, captions=kept.captions, rejected=kept.rejected, **notes)


def distinct(captions: Iterable[object], left_out: Counter[str]) -> list[object]:
    """The captions without repetitions, up to case and blanks, which are counted as `duplicate_caption`.

    A value that is no text stays, for `keep_captions` to refuse.
    """
    seen: dict[object, object] = {}
    for number, caption in enumerate(captions):
        wording = " ".join(caption.split()).casefold() if isinstance(caption, str) else number
        if wording and wording in seen:
            left_out["duplicate_caption"] += 1
        seen.setdefault(wording, caption)
    return list(seen.values())
