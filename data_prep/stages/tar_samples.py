"""Reads ready-made tars in WebDataset's layout, as img2dataset writes and others publish them: where each sample lies.

Members of one sample have the same name up to the first dot, folders included: KEY.jpg (or jpeg, png, webp, ...) with
KEY.txt, KEY.json, or both. Names are keys only: nothing on the disk is ever opened by them. Only texts are read here;
images stay in the tar.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from data_prep.lists.row_list import ListedImage, keep_captions, read_note
from data_prep.output.storage import open_regular
from data_prep.output.system_files import is_apple_double, is_system_file
from samples.json_text import decode_text, parse_json
from samples.quote import quote
from samples.tar import FILE, FOLDER, LABEL, Member, TarDamage, tar_members

IMAGES = {"jpg", "jpeg", "png", "webp", "avif", "bmp", "gif", "tif", "tiff"}
MAX_TEXT_BYTES = 1_000_000


@dataclass(frozen=True)
class TarSample:
    """One sample of a tar: its row as in a list, and where its image's bytes are."""

    listed: ListedImage
    offset: int = 0
    size: int = 0


@dataclass(frozen=True)
class _Text:
    """The content of a .txt or .json, or why it has none."""

    captions: list[object] = field(default_factory=list)
    url: str | None = None
    id: str | None = None
    licence: str | None = None
    fault: str | None = None


@dataclass(frozen=True)
class _Part:
    """One member of a sample."""

    key: str
    extension: str
    member: Member
    text: _Text | None

    @property
    def scope(self) -> tuple[int, str]:
        """The sample it belongs to: keys may be used again in a tar that was appended to this one."""
        return self.member.archive, self.key


def read_tar(path: Path) -> tuple[list[TarSample], TarDamage | None]:
    """The samples of a tar in its order, usable or with a reason, and the damage that ends the tar early, if any.

    The members of a sample usually follow each other. Where they do not (`tar -C DIR .` takes files in the disk's
    order), they are put together when the tar has one image and one text of each kind under the key. Memory: the
    captions of one tar.

    Raises: OSError when the file cannot be read.
    """
    runs: list[list[_Part]] = []
    damage = None
    try:
        for part in _parts(path):
            if runs and runs[-1][0].scope == part.scope:
                runs[-1].append(part)
            else:
                runs.append([part])
    except TarDamage as found:
        damage = found
    return [_sample(path.name, parts) for parts in _put_together(runs)], damage


def _parts(path: Path) -> Iterator[_Part]:
    with open_regular(path) as file:
        for member in tar_members(file, os.fstat(file.fileno()).st_size):
            if member.kind in (FOLDER, LABEL) or _is_systems(file, member):
                continue
            key, extension = _split(member.name)
            yield _Part(key, extension, member, _read_text(file, member, extension))


def _is_systems(file: IO[bytes], member: Member) -> bool:
    if is_system_file(member.name):
        return True
    if "._" not in member.name:
        return False
    file.seek(member.start)
    return is_apple_double(member.name, file.read(min(4, member.size)))


def _split(name: str) -> tuple[str, str]:
    """Key and extension; `./a//b.JPG` is `a/b` and `jpg`. An accent may be one character or two (NFC, macOS's NFD)."""
    *folders, base = unicodedata.normalize("NFC", name).split("/")
    stem, _, extension = base.partition(".")
    return "/".join([*(folder for folder in folders if folder not in ("", ".")), stem]), extension.lower()


def _put_together(runs: list[list[_Part]]) -> Iterator[list[_Part]]:
    """The parts of each sample: all of a key where its first part is, or run by run where a key is used again."""
    by_scope: dict[tuple[int, str], list[_Part]] = {}
    for run in runs:
        by_scope.setdefault(run[0].scope, []).extend(run)
    for run in runs:
        together = by_scope.get(run[0].scope)
        if together is None:
            continue  # is part of an earlier run's sample
        if len(together) > len(run) and _is_one_sample(together):
            del by_scope[run[0].scope]
            yield together
        else:
            yield run


def _is_one_sample(parts: list[_Part]) -> bool:
    extensions = [part.extension for part in parts]
    return len(set(extensions)) == len(extensions) and sum(extension in IMAGES for extension in extensions) == 1


def _sample(tar: str, parts: list[_Part]) -> TarSample:
    images = [part for part in parts if part.extension in IMAGES]
    texts = {part.extension: part.text for part in parts if part.text is not None}
    fields = texts.get("json", _Text())
    name = images[0].member.name if images else parts[0].key
    url = fields.url or f"{tar}/{_shown(name)}"
    fault = _fault(parts, images)
    if fault is not None:
        return TarSample(ListedImage(url, [], fault))
    captions = fields.captions if keep_captions("", fields.captions).captions else texts.get("txt", fields).captions
    unread = [text.fault for text in texts.values() if text.fault is not None]
    if not captions and unread:
        return TarSample(ListedImage(url, [], unread[0]))
    listed = keep_captions(url, captions, id=fields.id or _shown(parts[0].key), licence=fields.licence)
    return TarSample(listed, images[0].member.start, images[0].member.size)


def _fault(parts: list[_Part], images: list[_Part]) -> str | None:
    """Why these members are no sample, without regard to their texts."""
    for part in parts:
        if part.member.kind != FILE:
            return f"bad_row: {quote(part.member.name)} is a {part.member.kind}, not a plain file"
    if len(images) != 1:
        return f"bad_row: {len(images)} images in {quote(', '.join(part.member.name for part in parts))}"
    extensions = [part.extension for part in parts]
    for extension in ("txt", "json"):
        if extensions.count(extension) > 1:
            return f"bad_row: {extensions.count(extension)} files {quote(parts[0].key)}.{extension}"
    return None


def _read_text(file: IO[bytes], member: Member, extension: str) -> _Text | None:
    """The content of a text member; None for any other member."""
    if extension not in ("txt", "json") or member.kind != FILE:
        return None
    if member.size > MAX_TEXT_BYTES:
        return _Text(fault=f"bad_row: {quote(member.name)} has {member.size} bytes, more than {MAX_TEXT_BYTES}")
    file.seek(member.start)
    data = file.read(member.size)
    try:
        text = decode_text(data)
    except ValueError as error:
        return _Text(fault=f"caption_not_utf8: {quote(member.name)} is {error}")
    if extension == "txt":
        return _Text([text])
    try:
        fields = parse_json(data)
    except ValueError as error:
        return _Text(fault=f"bad_row: {quote(member.name)} is no JSON: {error}")
    if not isinstance(fields, dict):
        return _Text(fault=f"bad_row: {quote(member.name)} holds no JSON object")
    url, number = fields.get("url"), fields.get("id")
    return _Text(
        _captions(fields),
        url if isinstance(url, str) and url else None,
        read_note(number),
        next((fields[name] for name in ("licence", "license") if isinstance(fields.get(name), str)), None),
    )


def _captions(fields: dict[str, object]) -> list[object]:
    """The cell of `captions`, else of `caption`, if it holds a caption; else both, so that the reason names them."""
    for name in ("captions", "caption"):
        if keep_captions("", [fields.get(name)]).captions:
            return [fields[name]]
    return [fields.get("captions"), fields.get("caption")]


def _shown(name: str) -> str:
    r"""A name with bytes that are not UTF-8 written as `\xe9`: it is for people, and no reason to lose the sample."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
