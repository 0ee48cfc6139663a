"""Reads ready-made tars in WebDataset's layout, as img2dataset writes and others publish them: where each sample lies.

Members of one sample follow each other and have one name up to the first dot, folders and all: KEY.jpg (or jpeg, png,
webp, ...) with KEY.txt, KEY.json, or both. Images are left where they are; only texts are read.
"""

from __future__ import annotations

import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.row_list import ListedImage, keep_captions

IMAGES = {"jpg", "jpeg", "png", "webp", "avif", "bmp", "gif", "tif", "tiff"}
MAX_TEXT_BYTES = 1_000_000


class TarDamage(Exception):
    """The tar cannot be read on from here."""


@dataclass(frozen=True)
class TarSample:
    """One sample of a tar: what a list would say of it, and where its image's bytes are."""

    listed: ListedImage
    offset: int = 0
    size: int = 0


@dataclass(frozen=True)
class _Member:
    key: str
    extension: str
    name: str
    offset: int
    size: int
    text: bytes | None
    fault: str | None


def read_tar(path: Path) -> Iterator[TarSample]:
    """Samples in the tar's order, usable or with their reason. Memory: one sample's texts.

    Raises: TarDamage, after the samples before the damage. Python's tarfile takes a tar that was cut between members,
        or whose next header is broken, for a whole one; this does not.
    """
    members, together, damage = _members(path), list[_Member](), None
    while True:
        try:
            member = next(members, None)
        except TarDamage as found:  # told when the sample before it is out
            member, damage = None, found
        if together and (member is None or member.key != together[0].key):
            yield _sample(path, together[0].key, together)
            together = []
        if member is None:
            break
        together.append(member)
    if damage is not None:
        raise damage


def _members(path: Path) -> Iterator[_Member]:
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (info := tar.next()) is not None:
                    tar.members = []  # type: ignore[attr-defined]  # or it would remember every member of a tar of gigabytes
                    if info.isdir():
                        continue
                    if info.offset_data + info.size > size:
                        raise TarDamage(f"truncated: {size} bytes, ends inside {info.name}")
                    yield _member(tar, info)
                end = tar.offset
        except tarfile.TarError as error:
            raise TarDamage(f"not a readable tar (plain, not compressed): {error}") from error
        file.seek(end)
        mark = file.read(tarfile.BLOCKSIZE)
        if len(mark) < tarfile.BLOCKSIZE:
            raise TarDamage(f"truncated: {size} bytes and no end mark")
        if mark.strip(b"\0"):
            raise TarDamage(f"broken header at byte {end}")


def _member(tar: tarfile.TarFile, info: tarfile.TarInfo) -> _Member:
    folder, slash, base = info.name.rpartition("/")
    stem, _, extension = base.partition(".")
    extension = extension.lower()
    fault, text = None, None
    if not info.isreg() or info.issparse():
        fault = f"bad_row: {info.name} is not a plain file"
    elif extension in ("txt", "json"):
        file = tar.extractfile(info)
        assert file is not None
        if info.size > MAX_TEXT_BYTES:
            fault = f"bad_row: {info.name} has {info.size} bytes"
        else:
            text = file.read()
    return _Member(f"{folder}{slash}{stem}", extension, info.name, info.offset_data, info.size, text, fault)


def _sample(path: Path, key: str, members: list[_Member]) -> TarSample:
    images = [member for member in members if member.extension in IMAGES]
    texts = {member.extension: member.text for member in members if member.text is not None}
    fields = _fields(texts.get("json"))
    url = fields.get("url")
    url = url if isinstance(url, str) and url else f"{path.name}/{images[0].name if images else key}"
    fault = next((member.fault for member in members if member.fault is not None), None)
    if len(images) != 1:
        fault = fault or f"bad_row: {len(images)} images in {', '.join(member.name for member in members)[:200]}"
    number = fields.get("id")
    listed = keep_captions(
        url,
        _captions(fields, texts.get("txt")),
        id=str(number) if isinstance(number, str | int) else key,
        licence=next((fields[name] for name in ("licence", "license") if isinstance(fields.get(name), str)), None),
    )
    if fault is not None:
        return TarSample(ListedImage(listed.url, [], fault))
    return TarSample(listed, images[0].offset, images[0].size)


def _fields(text: bytes | None) -> dict[str, Any]:
    try:
        fields = json.loads((text or b"{}").decode("utf-8", "surrogateescape"))
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _captions(fields: dict[str, Any], text: bytes | None) -> list[str]:
    """Of the JSON (`captions`, else `caption`), where it has any; else the text file."""
    for name in ("captions", "caption"):
        value = fields.get(name)
        found = [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str) and one.strip()]
        if found:
            return found
    return [] if text is None else [text.decode("utf-8", "surrogateescape")]
