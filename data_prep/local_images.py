"""Where `pack` finds images: folders, and zips that need not be unpacked."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.errors import InputError
from data_prep.row_list import ListedImage

ROWS_LOOKED_AT = 1000


class NotRead(Exception):
    """`str()` is `reason: detail`, with reason missing_file, outside_images, file_too_large or unreadable_file."""


@dataclass(frozen=True)
class LocalImages:
    """Folders and zips in which images' paths begin, looked through in order.

    A list comes from others, so a path of its may not lead out of them: `../../home/me/.ssh/id_rsa` is no image.
    """

    roots: tuple[Path, ...]

    def read(self, name: str, max_bytes: int) -> bytes:
        """The bytes of the first image of that name. Raises: NotRead."""
        outside = 0
        try:
            for root in self.roots:
                path = None if root.is_file() else _inside(root, name)
                if root.is_file():
                    data = _from_zip(root, name, max_bytes)
                elif path is not None:
                    data = _from_file(path, max_bytes)
                else:
                    outside += 1
                    continue
                if data is not None:
                    return data
        except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:  # ValueError: a NUL in the name
            raise NotRead(f"unreadable_file: {name}: {error}") from error
        if outside == len(self.roots):
            raise NotRead(f"outside_images: {name}")
        raise NotRead(f"missing_file: {name}")

    def has(self, name: str) -> bool:
        try:
            return any(name in _members(root) if root.is_file() else _is_there(root, name) for root in self.roots)
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


def _inside(root: Path, name: str) -> Path | None:
    """The file that is meant, when it lies in the folder by its name; symbolic links in the folder are its owner's.

    What is looked at is what is opened: `link/..` is taken away here, and not left to where the link leads.
    """
    path = Path(os.path.normpath(root.absolute() / name))
    bases = (Path(os.path.normpath(root.absolute())), root.resolve())
    return path if any(path != base and path.is_relative_to(base) for base in bases) else None


def _is_there(root: Path, name: str) -> bool:
    path = _inside(root, name)
    return path is not None and path.exists()


def _from_file(path: Path, max_bytes: int) -> bytes | None:
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
