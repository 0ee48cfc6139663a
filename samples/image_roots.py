"""Where a list's images are: folders, and zips that need not be unpacked, given with `--images`.

A list comes from other people and other systems. Its paths may not lead out of the roots: `../../home/me/.ssh/id_rsa`
is no image. The exact name is tried first; then the name with `/` for a backslash, without blanks at its ends, and with
accents composed or decomposed, as Windows and macOS write names. Upper and lower case are never guessed.
"""

from __future__ import annotations

import functools
import os
import stat
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from samples.quote import quote
from samples.zip_images import NotRead, ZipImages

__all__ = ["ImageRoots", "NotRead", "RootError", "open_image_roots"]

Stamp = tuple[int, int, int]
"""Inode, size and modification time: if one of them differs, it is another file."""


class RootError(ValueError):
    """A root that is neither a folder nor a readable zip, or a zip that was replaced since it was opened."""


@dataclass(frozen=True)
class ImageRoots:
    """Folders and zips to which images' paths are relative, searched in order. Can be sent to other processes."""

    roots: tuple[Path, ...]
    stamps: tuple[Stamp | None, ...]
    """Stamp of each zip when it was given; None for a folder."""

    def read(self, name: str, max_bytes: int) -> bytes:
        """The bytes of the first image of that name. Raises: NotRead; RootError for a zip that was replaced."""
        outside = 0
        try:
            for root, stamp in zip(self.roots, self.stamps, strict=True):
                if stamp is not None:
                    archive = _archive(root, stamp)
                    if (info := archive.find(name)) is not None:
                        return archive.read(info, max_bytes)
                elif (path := _find(root, name)) is not None:
                    return _read_file(path, name, max_bytes)
                else:
                    outside += not any(True for _ in _candidates(root, name))
        except OSError as error:
            raise NotRead(f"unreadable_file: {quote(name)}: {error.strerror or quote(error)}") from error
        except ValueError as error:
            if isinstance(error, RootError):
                raise
            raise NotRead(f"unreadable_file: {quote(name)}: {error}") from error  # a NUL in the name
        raise NotRead(f"{'outside_images' if outside == len(self.roots) else 'missing_file'}: {quote(name)}")

    def has(self, name: str) -> bool:
        """Whether a root has an image of that name, readable or not."""
        return self.stamp(name) is not None

    def stamp(self, name: str) -> str | None:
        """A text that changes with the image: size and modification time, or checksum in a zip. None: no such image."""
        for root, stamp in zip(self.roots, self.stamps, strict=True):
            if stamp is not None:
                if (info := _archive(root, stamp).find(name)) is not None:
                    return f"{info.file_size} {info.CRC}"
                continue
            try:
                if (path := _find(root, name)) is not None:
                    status = path.stat()
                    return f"{status.st_size} {status.st_mtime_ns}"
            except (OSError, ValueError):
                continue
        return None

    def names(self) -> Iterator[str]:
        """Paths of all files, as `read` takes them; those of a folder sorted."""
        for root, stamp in zip(self.roots, self.stamps, strict=True):
            if stamp is not None:
                yield from _archive(root, stamp).names()
            else:
                yield from (str(path.relative_to(root)) for path in sorted(root.rglob("*")) if path.is_file())

    def check_unchanged(self) -> None:
        """Raises: RootError when a zip was replaced, or a root is gone, since the start: images would be missing."""
        for root, stamp in zip(self.roots, self.stamps, strict=True):
            if not root.exists():
                raise RootError(f"{root} is gone since it was given")
            if stamp is not None and _stamp(root) != stamp:
                raise RootError(f"{root} was changed or replaced while it was read")


def open_image_roots(roots: Sequence[Path]) -> ImageRoots:
    """Raises: RootError for anything but a folder or a readable zip."""
    stamps: list[Stamp | None] = []
    for root in roots:
        if root.is_dir():
            stamps.append(None)
            continue
        if not root.is_file():
            raise RootError(f"folder or zip of images not found: {root}")
        try:
            stamps.append(_stamp(root))
            _archive(root, stamps[-1])
        except RootError:
            raise
        except (OSError, ValueError) as error:
            raise RootError(f"{root} is not a zip of images: {error}") from error
    return ImageRoots(tuple(roots), tuple(stamps))


def _find(root: Path, name: str) -> Path | None:
    """The file of that name in a folder: by its exact name, else as another system may have written it."""
    return next((path for path in _candidates(root, name) if path.exists()), None)


def _candidates(root: Path, name: str) -> Iterator[Path]:
    """Paths in the folder that the name may mean, the likeliest first; none for a name that leads out."""
    seen = set()
    for spelling in (name, name.replace("\\", "/"), name.strip(), name.replace("\\", "/").strip()):
        for form in (spelling, unicodedata.normalize("NFC", spelling), unicodedata.normalize("NFD", spelling)):
            if form not in seen:
                seen.add(form)
                path = _inside(root, form)
                if path is not None:
                    yield path


def _inside(root: Path, name: str) -> Path | None:
    """The path that a name means, if it is inside the folder. Symbolic links in the folder are trusted.

    The path that is checked is the one that is opened: `link/..` is removed here, and not resolved through the link.
    """
    path = Path(os.path.normpath(root.absolute() / name))
    bases = (Path(os.path.normpath(root.absolute())), root.resolve())
    return path if any(path != base and path.is_relative_to(base) for base in bases) else None


def _read_file(path: Path, name: str, max_bytes: int) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a folder, or a pipe, whose reading would not end
        raise NotRead(f"unreadable_file: {quote(name)} is no plain file")
    if status.st_size > max_bytes:
        raise NotRead(f"file_too_large: {status.st_size} bytes, more than {max_bytes}")
    return path.read_bytes()


@functools.lru_cache(maxsize=8)
def _archive(root: Path, stamp: Stamp) -> ZipImages:
    """An open zip, kept until the process ends: reading the directory of COCO's zip takes longer than an image."""
    archive = ZipImages(root)
    status = os.fstat(archive.file.fileno())
    if (status.st_ino, status.st_size, status.st_mtime_ns) != stamp:
        raise RootError(f"{root} was changed or replaced while it was read")
    return archive


def _stamp(root: Path) -> Stamp:
    status = root.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
