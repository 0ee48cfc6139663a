"""Where `pack` finds images: folders, and zips that need not be unpacked."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.errors import InputError
from data_prep.row_list import ListedImage

ROWS_LOOKED_AT = 1000


class NotRead(Exception):
    """`str()` is `reason: detail`, with reason missing_file, file_too_large or unreadable_file."""


@dataclass(frozen=True)
class LocalImages:
    """Folders and zips in which images' paths begin, looked through in order."""

    roots: tuple[Path, ...]

    def read(self, name: str, max_bytes: int) -> bytes:
        """The bytes of the first image of that name. Raises: NotRead."""
        try:
            for root in self.roots:
                data = _from_zip(root, name, max_bytes) if root.is_file() else _from_folder(root, name, max_bytes)
                if data is not None:
                    return data
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:  # ValueError: a NUL in the name
            raise NotRead(f"unreadable_file: {name}: {error}") from error
        raise NotRead(f"missing_file: {name}")

    def has(self, name: str) -> bool:
        try:
            return any(name in _members(root) if root.is_file() else (root / name).exists() for root in self.roots)
        except (OSError, ValueError):
            return False


def open_local_images(names: Sequence[str]) -> LocalImages:
    """Raises: InputError for what is neither a folder nor a readable zip."""
    for root in map(Path, names):
        if root.is_file():
            try:
                _members(root)
            except (OSError, zipfile.BadZipFile) as error:
                raise InputError(f"{root} is not a zip of images: {error}", "give folders or zips") from error
        elif not root.is_dir():
            raise InputError(f"folder of images not found: {root}", "give an existing folder or zip with --images")
    return LocalImages(tuple(map(Path, names)))


def without_prefix(image: ListedImage, prefixes: Sequence[str]) -> ListedImage:
    """The image's path from where the first matching prefix ends."""
    for prefix in prefixes:
        if image.url.startswith(prefix):
            return dataclasses.replace(image, url=image.url.removeprefix(prefix).lstrip("/"))
    return image


def refuse_when_none_exists(images: Iterable[ListedImage], local: LocalImages) -> Iterator[ListedImage]:
    """The same rows. Lists that others made hold paths of their machines, and a day's work would be failures only.

    Raises: InputError when not one of the first thousand images is there, with the prefix that is in the way.
    """
    iterator = iter(images)
    first = list(itertools.islice(iterator, ROWS_LOOKED_AT))
    names = [image.url for image in first if image.rejected is None]
    if names and not any(map(local.has, names)):
        prefix = next((prefix for name in names for prefix in _prefixes(name) if _has_rest(local, name, prefix)), None)
        raise InputError(
            f"none of the first {len(names)} images is in {', '.join(map(str, local.roots))}: {names[0]}, ...",
            f"--strip-prefix {prefix} finds them there"
            if prefix
            else "--images is the folder (or zip) that the paths begin in; --strip-prefix takes off what precedes it",
        )
    yield from first
    yield from iterator


def _has_rest(local: LocalImages, name: str, prefix: str) -> bool:
    return local.has(name.removeprefix(prefix).lstrip("/"))


def _prefixes(name: str) -> Iterator[str]:
    """From short to long: `/`, `/export/`, `/export/share/`, ..."""
    parts = PurePosixPath(name).parts
    for count in range(1, len(parts)):
        yield str(PurePosixPath(*parts[:count])).rstrip("/") + "/"


def _from_folder(root: Path, name: str, max_bytes: int) -> bytes | None:
    path = root / name
    try:
        _refuse_large(path.stat().st_size, max_bytes)
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _from_zip(root: Path, name: str, max_bytes: int) -> bytes | None:
    info = _members(root).get(name)
    if info is None:
        return None
    _refuse_large(info.file_size, max_bytes)
    return _archive(root).read(info)


def _refuse_large(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise NotRead(f"file_too_large: {size} bytes, more than {max_bytes}")


def _members(root: Path) -> dict[str, zipfile.ZipInfo]:
    return _archive(root).NameToInfo


@functools.lru_cache(maxsize=8)
def _archive(root: Path) -> zipfile.ZipFile:
    """Open for as long as the process lives: reading the directory of COCO's zip takes longer than an image."""
    return zipfile.ZipFile(root)
