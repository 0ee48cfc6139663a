"""Where `pack` finds images (`samples/image_roots.py`), and prefixes of paths from other machines."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_prep.errors import InputError
from data_prep.lists.row_list import ListedImage
from samples.image_roots import ImageRoots, RootError, open_image_roots
from samples.quote import quote

ROWS_LOOKED_AT = 1000
MAX_PREFIX_SHOWN = 150
"""Characters. A hint is given whole, so that it can be typed as it stands, or not at all."""


def open_local_images(names: Sequence[str]) -> ImageRoots:
    """Raises: InputError for anything but a folder or a readable zip."""
    try:
        return open_image_roots([Path(name) for name in names])
    except RootError as error:
        raise InputError(str(error), "give existing folders, or zips of images, with --images") from error


def without_prefix(image: ListedImage, prefixes: Sequence[str]) -> ListedImage:
    """The image with the first matching prefix taken off its path."""
    for prefix in prefixes:
        if image.url.startswith(prefix):
            return dataclasses.replace(image, url=image.url.removeprefix(prefix).lstrip("/\\"))
    return image


def refuse_when_none_exists(images: Iterable[ListedImage], local: ImageRoots) -> Iterator[ListedImage]:
    """The same rows. Lists from elsewhere hold paths of other machines; then a day's work would give only failures.

    Raises: InputError when none of the first thousand images exists, with the prefix to strip where one is found.
    """
    iterator = iter(images)
    first = list(itertools.islice(iterator, ROWS_LOOKED_AT))
    names = [image.url for image in first if image.rejected is None]
    if names and not any(map(local.has, names)):
        prefix = next((prefix for name in names for prefix in _prefixes(name) if _has_rest(local, name, prefix)), None)
        raise InputError(
            f"none of the first {len(names)} images is in {', '.join(map(str, local.roots))}: {quote(names[0])}, ...",
            _way_out(local, prefix),
        )
    yield from first
    yield from iterator


def _way_out(local: ImageRoots, prefix: str | None) -> str:
    if prefix is not None and len(prefix) <= MAX_PREFIX_SHOWN and prefix.isprintable():
        return f"--strip-prefix {shlex.quote(prefix)} finds them there"
    zips = [path for root in local.roots if root.is_dir() for path in sorted(root.glob("*.zip"))]
    if zips:
        return f"zips in a folder are not opened: --images {zips[0]}"
    return "--images is the folder (or zip) to which the paths are relative; --strip-prefix removes what precedes it"


def _has_rest(local: ImageRoots, name: str, prefix: str) -> bool:
    return local.has(name.removeprefix(prefix).lstrip("/\\"))


def _prefixes(name: str) -> Iterator[str]:
    r"""From short to long: `/`, `/export/`, `/export/share/`, ...; `C:\\`, `C:\\images\\`, ..."""
    return (name[: match.end()] for match in re.finditer(r"[/\\]+", name))
