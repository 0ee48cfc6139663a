"""Images by the names that other systems give them, in folders and in zips of any writer."""

from __future__ import annotations

import os
import struct
import unicodedata
import zipfile
from pathlib import Path

import pytest

from samples.image_roots import ImageRoots, NotRead, RootError, open_image_roots

MANY = 10**6
ACCENT = "Zoé/café.jpg"


def roots(*paths: Path) -> ImageRoots:
    return open_image_roots(paths)


def zip_of(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return path


def patched(path: Path, *, flag: int = 0, method: int | None = None, size: int | None = None) -> Path:
    """The zip with a flag bit, a method or a size written into all of its headers."""
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := data.find(mark, place + 1)) >= 0:
            bits, kind = struct.unpack_from("<HH", data, place + at)
            struct.pack_into("<HH", data, place + at, bits | flag, kind if method is None else method)
            if size is not None:
                struct.pack_into("<I", data, place + at + 16, size)
    path.write_bytes(data)
    return path


def reason(images: ImageRoots, name: str) -> str:
    with pytest.raises(NotRead) as error:
        images.read(name, MANY)
    assert len(str(error.value)) < 300 and "0x" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_accents_may_be_composed_or_not(tmp_path: Path, stored: str, listed: str) -> None:
    """A list from a Mac and files on Linux, and the reverse."""
    there, asked = unicodedata.normalize(stored, ACCENT), unicodedata.normalize(listed, ACCENT)  # type: ignore[arg-type]
    (tmp_path / there).parent.mkdir()
    (tmp_path / there).write_bytes(b"here")
    archive = zip_of(tmp_path / "a.zip", {there: b"zipped"})
    assert roots(tmp_path).read(asked, MANY) == b"here" and roots(tmp_path).has(asked)
    assert roots(archive).read(asked, MANY) == b"zipped" and roots(archive).has(asked)


@pytest.mark.parametrize("name", ["sub/a.jpg", "./sub//a.jpg", "sub\\a.jpg", " sub/a.jpg ", "x/../sub/a.jpg"])
def test_names_that_mean_the_same(tmp_path: Path, name: str) -> None:
    """Windows' separators, doubled ones, blanks at the ends; in a zip also as the member is named."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").write_bytes(b"here")
    assert roots(tmp_path).read(name, MANY) == b"here"
    if name == name.strip():
        for member in ("sub/a.jpg", "./sub/a.jpg", "sub//a.jpg", "sub\\a.jpg", "/sub/a.jpg", "y/../sub/a.jpg"):
            assert roots(zip_of(tmp_path / "a.zip", {member: b"zipped"})).read(name, MANY) == b"zipped", member


def test_the_very_name_comes_first(tmp_path: Path) -> None:
    """A file whose name has a backslash or a blank is itself; capitals and percent signs are never guessed."""
    (tmp_path / "sub").mkdir()
    for name in ("sub/a.jpg", "sub\\a.jpg", "b.jpg", "b.jpg "):
        (tmp_path / name).write_bytes(name.encode())
    images = roots(tmp_path)
    for name in ("sub/a.jpg", "sub\\a.jpg", "b.jpg", "b.jpg "):
        assert images.read(name, MANY) == name.encode()
    assert not images.has("B.jpg") and not images.has("b%2Ejpg")
    both = roots(zip_of(tmp_path / "a.zip", {"./a.jpg": b"dotted", "a.jpg": b"plain"}))
    assert both.read("a.jpg", MANY) == b"plain" and both.read("./a.jpg", MANY) == b"dotted"


@pytest.mark.parametrize("name", ["../a.jpg", "..\\a.jpg", "sub\\..\\..\\a.jpg", "/etc/passwd", ""])
def test_no_spelling_leads_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.jpg").write_bytes(b"secret")
    (tmp_path / "images").mkdir()
    expected = "missing_file: " if "\\" in name else "outside_images: "  # here a backslash may be part of a name
    assert reason(roots(tmp_path / "images"), name).startswith(expected)
    archive = zip_of(tmp_path / "a.zip", {"../a.jpg": b"out", "b.jpg": b"in"})
    assert reason(roots(archive), "a.jpg").startswith("missing_file: ")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_what_python_packs_is_read_and_its_damage_is_a_reason(tmp_path: Path, method: int) -> None:
    """Any byte of the member changed: its bytes, or unreadable_file; nothing else escapes."""
    data = os.urandom(300) * 3
    archive = zip_of(tmp_path / "a.zip", {"a.jpg": data}, method)
    assert roots(archive).read("a.jpg", MANY) == data
    whole = archive.read_bytes()
    for place in range(30, whole.index(b"PK\x01\x02"), 17):
        damaged = bytearray(whole)
        damaged[place] ^= 0xAA
        archive.write_bytes(damaged)
        try:
            assert roots(archive).read("a.jpg", MANY) == data
        except NotRead as error:
            assert str(error).startswith("unreadable_file: ")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"method": 9}, "Deflate64"),
        ({"method": 93}, "Zstandard"),
        ({"method": 77}, "method 77"),
        ({"flag": 1}, "needs a password"),
        ({"flag": 0x20}, ""),
        ({"method": 99, "flag": 1}, "needs a password"),
        ({"method": zipfile.ZIP_LZMA}, ""),
        ({"method": zipfile.ZIP_BZIP2}, ""),
        ({"size": 10}, ""),
        ({"size": 5000}, ""),
    ],
    ids=str,
)
def test_what_cannot_be_unpacked_says_why(tmp_path: Path, changes: dict[str, int], why: str) -> None:
    """Methods of other tools, passwords, sizes that lie: a reason of the row."""
    archive = patched(zip_of(tmp_path / "a.zip", {"a.jpg": b"picture" * 300}), **changes)
    found = reason(roots(archive), "a.jpg")
    assert found.startswith("unreadable_file: a.jpg ") and why in found


def test_a_bomb_is_refused_by_its_size_or_stopped_at_it(tmp_path: Path) -> None:
    """Fifty megabytes of zeros: too large by its directory; where that is wrong, no more than it states is unpacked."""
    archive = zip_of(tmp_path / "a.zip", {"a.jpg": bytes(50_000_000)})
    assert reason(roots(archive), "a.jpg").startswith("file_too_large: 50000000 bytes")
    assert reason(roots(patched(archive, size=1000)), "a.jpg").startswith("unreadable_file: ")


def test_utf8_names_without_the_flag(tmp_path: Path) -> None:
    """Info-ZIP and macOS write UTF-8 without the flag: read as code page 437 it would be another name."""
    archive = zip_of(tmp_path / "a.zip", {"café.jpg": b"zipped"})
    data = archive.read_bytes()
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = data.index(mark) + at
        data = data[:place] + struct.pack("<H", 0) + data[place + 2 :]
    archive.write_bytes(data)
    assert roots(archive).read("café.jpg", MANY) == b"zipped"
    assert roots(archive).read(unicodedata.normalize("NFD", "café.jpg"), MANY) == b"zipped"


def test_zips_that_are_none_are_named(tmp_path: Path) -> None:
    """A cut one, an empty file, a damaged directory, a tar, a pipe: before anything is read from it."""
    archive = zip_of(tmp_path / "a.zip", {f"{i}.jpg": b"x" * 100 for i in range(5)})
    whole = archive.read_bytes()
    directory = whole.index(b"PK\x01\x02")
    faults = [b"", b"no zip", whole[: len(whole) // 2], whole[:directory] + b"\0" * 80 + whole[directory + 80 :]]
    for data in faults:
        archive.write_bytes(data)
        with pytest.raises(RootError, match="is not a zip of images"):
            roots(archive)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(RootError, match="not found"):
        roots(tmp_path / "pipe")
    assert reason(roots(tmp_path), "pipe") == "unreadable_file: pipe is no plain file"
    (tmp_path / "sub").mkdir()
    assert reason(roots(tmp_path), "sub") == "unreadable_file: sub is no plain file"
    assert reason(roots(tmp_path), "x" * 5000).startswith("unreadable_file: xxx")


def test_a_zip_that_is_replaced_is_noticed(tmp_path: Path) -> None:
    """Rows read from two zips would be one corpus of both."""
    archive = zip_of(tmp_path / "a.zip", {"a.jpg": b"one"})
    images = roots(archive)
    assert images.read("a.jpg", MANY) == b"one"
    images.check_unchanged()
    zip_of(tmp_path / "b.zip", {"a.jpg": b"two"}).replace(archive)
    with pytest.raises(RootError, match="was changed or replaced"):
        images.check_unchanged()
    archive.unlink()
    with pytest.raises(RootError, match="is gone"):
        images.check_unchanged()
