"""Any tar, read strictly: what GNU tar, POSIX and V7 write is read; false headers are damage with a reason."""

from __future__ import annotations

import io
import tarfile
import tracemalloc

import pytest

from samples.tar import MAX_EXTENSION_BYTES, TarDamage, tar_members
from tests.support.raw_tar import END, base256, header, member, padded, pax, pax_record, with_checksum

GOOD = member("a.jpg", b"picture") + member("a.txt", b"text")


def read(data: bytes) -> list[tuple[str, str, bytes]]:
    """Name, kind and data of every member."""
    file = io.BytesIO(data)
    return [(one.name, one.kind, data[one.start : one.start + one.size]) for one in tar_members(file, len(data))]


def written_by_tarfile(style: int, names: list[str], **fields: object) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=style) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            for key, value in fields.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(name.encode()))
    return buffer.getvalue()


LONG = "folder/" * 20 + "n" * 120 + ".jpg"


@pytest.mark.parametrize(
    ("style", "names"),
    [
        (tarfile.USTAR_FORMAT, ["a.jpg", "p" * 90 + "/" + "n" * 90]),
        (tarfile.GNU_FORMAT, ["a.jpg", LONG, "é ☕.jpg", "l" * 100, "l" * 101]),
        (tarfile.PAX_FORMAT, ["a.jpg", LONG, "é ☕.jpg", "l" * 100, "l" * 101]),
    ],
)
def test_what_pythons_writer_writes_is_read(style: int, names: list[str]) -> None:
    """Prefixes, long names, names in UTF-8, and times of a fraction that bring a separate header."""
    mtime = 1700000000.25 if style == tarfile.PAX_FORMAT else 1700000000
    data = written_by_tarfile(style, names, mtime=mtime)
    assert read(data) == [(name, "file", name.encode()) for name in names]


def test_sizes_may_be_octal_or_base_256_and_the_last_say_is_the_pax_headers() -> None:
    """A size that starts with blanks, too; the PAX header's counts, not the one beside it."""
    data = (
        header("octal", b"        7\0\0\0") + padded(b"1234567")
        + header("binary", base256(3)) + padded(b"123")
        + pax(pax_record("size", "5")) + header("pax", 0) + padded(b"12345")
        + END
    )  # fmt: skip
    assert [(name, content) for name, _, content in read(data)] == [
        ("octal", b"1234567"),
        ("binary", b"123"),
        ("pax", b"12345"),
    ]


def test_a_tar_of_unix_v7_is_read() -> None:
    """No magic, a type that is zero, and folders by the slash at their end."""
    data = member("d/", b"", b"\0", magic=b"") + member("d/a.jpg", b"picture", b"\0", magic=b"") + END
    assert read(data) == [("d/", "folder", b""), ("d/a.jpg", "file", b"picture")]


@pytest.mark.parametrize("tail", [bytes(512), END, bytes(10240), bytes(1 << 20)], ids=len)
def test_the_end_mark_may_be_padded_or_not(tail: bytes) -> None:
    assert [name for name, _, _ in read(GOOD + tail)] == ["a.jpg", "a.txt"]


def test_a_tar_that_was_appended_is_read_too() -> None:
    """`cat a.tar b.tar`: nothing behind the first end mark is lost in silence."""
    assert [name for name, _, _ in read(GOOD + bytes(10240) + member("b.jpg", b"x") + END)] == [
        "a.jpg",
        "a.txt",
        "b.jpg",
    ]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (b"1", "hard link"),
        (b"2", "symbolic link"),
        (b"3", "character device"),
        (b"4", "block device"),
        (b"5", "folder"),
        (b"6", "FIFO"),
        (b"7", "file"),
        (b"D", "folder"),
        (b"M", "continued file of another volume"),
        (b"S", "sparse file"),
        (b"V", "volume label"),
        (b"Z", "member of unknown type 'Z'"),
    ],
)
def test_every_type_has_a_name(kind: bytes, name: str) -> None:
    """And the member after it is found, for those that data follows and those that none does."""
    data = b"" if kind in b"123456" else b"data"
    assert read(member("x", data, kind) + GOOD + END)[0] == ("x", name, data)
    assert len(read(member("x", data, kind) + GOOD + END)) == 3


def test_sparse_files_of_all_four_formats_are_named() -> None:
    """64 GiB in a few bytes: the type is known, the size is that of the bytes that are there."""
    huge = str(64 * 2**30)
    old = bytearray(header("old", 512, b"S"))
    old[482] = 1  # more of the map follows, in two blocks
    maps = bytearray(512)
    maps[504] = 1
    data = (
        with_checksum(old) + bytes(maps) + bytes(512) + b"d" * 512
        + pax(pax_record("GNU.sparse.size", huge), pax_record("GNU.sparse.numblocks", "0")) + member("v00", b"")
        + pax(pax_record("GNU.sparse.map", "0,1"), pax_record("GNU.sparse.size", huge)) + member("v01", b"d")
        + pax(
            pax_record("GNU.sparse.major", "1"), pax_record("GNU.sparse.name", "v10"),
            pax_record("GNU.sparse.realsize", huge),
        ) + member("GNUSparseFile.0/v10", b"1\n0\n1\n")
        + GOOD + END
    )  # fmt: skip
    found = read(data)
    assert [(name, kind) for name, kind, _ in found[:4]] == [
        (name, "sparse file") for name in ("old", "v00", "v01", "v10")
    ]
    assert [name for name, _, _ in found[4:]] == ["a.jpg", "a.txt"]


LIES = {
    "a negative size": (header("x.jpg", base256(-512)), "'?x.jpg'? has a size of -512"),
    "a negative size of a text": (header("x.txt", base256(-1)), "a size of -1"),
    "a negative size of an unknown type": (header("x", base256(-512), b"Z"), "a size of -512"),
    "a negative size of a PAX header": (header("x", base256(-512), b"x"), "a size of -512"),
    "a size in letters": (header("x.jpg", b"0000000008\0\0"), "the size of x.jpg is no number"),
    "a size with a sign": (header("x.jpg", b"-0000000512\0"), "the size of x.jpg is no number"),
    "a size beyond the file": (header("x.jpg", 8 * 2**30 - 1), "ends inside x.jpg"),
    "a size of 2^80": (header("x.jpg", base256(1 << 80)), "ends inside x.jpg of 1208925819614629174706176 bytes"),
    "a PAX size of 21 digits": (pax(pax_record("size", "9" * 21)) + member("x", b""), "the size as '9{21}'"),
    "a PAX size of 19 digits": (pax(pax_record("size", "9" * 19)) + member("x", b""), "ends inside x of 9{19} bytes"),
    "a negative PAX size": (pax(pax_record("size", "-512")) + member("x", b""), "the size as '-512'"),
    "a PAX size in letters": (pax(pax_record("size", "1e3")) + member("x", b""), "the size as '1e3'"),
    "a global PAX size": (pax(pax_record("size", "5"), kind=b"g") + member("x", b""), "a global PAX header"),
    "a global PAX path": (pax(pax_record("path", "y"), kind=b"g") + member("x", b""), "a global PAX header"),
    "a PAX record longer than its header": (pax(b"99 path=a\n") + member("x", b""), "a broken record"),
    "a PAX record of length 0": (pax(b"0 path=a\n") + member("x", b""), "a broken record"),
    "a PAX record without an end": (pax(b"9 path=ab") + member("x", b""), "a broken record"),
    "a PAX record that is none": (pax(b"path=a\n" * 9) + member("x", b""), "a broken record"),
    "a chain of PAX headers": (pax(pax_record("path", "a.j")) * 3000 + member("x", b""), "more than 16 headers"),
    "a long name of 1 TiB": (header("@L", base256(1 << 40), b"L"), f"more than {MAX_EXTENSION_BYTES}"),
    "a long name beyond the file": (header("@L", 1 << 19, b"L"), "ends inside @L"),
    "a name of 5000 letters": (member("@L", b"n" * 5000, b"L") + member("x", b""), "a name of 5000 characters"),
    "a PAX header at the end": (pax(pax_record("path", "a")), "broken header"),
    "a sparse map without an end": (header("x", 0, b"S")[:482] + b"\1" + bytes(29), "broken header"),
    "a broken checksum": (b"y" + header("x.jpg")[1:], "broken header"),
    "letters": (b"<html>" * 200, "broken header"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_lie_in_a_header_is_damage_after_the_members_before_it(name: str) -> None:
    """In bounded memory; and no error but TarDamage."""
    lie, reason = LIES[name]
    data, found = GOOD + lie + END, []
    tracemalloc.start()
    with pytest.raises(TarDamage, match=reason):
        for one in tar_members(io.BytesIO(data), len(data)):
            found.append(one.name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found == ["a.jpg", "a.txt"]
    assert peak < len(data) + 2 * MAX_EXTENSION_BYTES, f"{peak} bytes"


def test_a_sparse_map_that_never_ends_is_a_cut_tar() -> None:
    block = bytearray(header("x", 0, b"S"))
    block[482] = 1
    with pytest.raises(TarDamage, match="truncated"):
        read(GOOD + with_checksum(block) + (bytes(504) + b"\1" + bytes(7)) * 100)


def test_bytes_after_the_end_mark_that_are_no_member_are_damage() -> None:
    with pytest.raises(TarDamage, match="1024 bytes after the end mark"):
        read(GOOD + END + b"x" * 1024)


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"\x1f\x8b\x08", "gzip: `gunzip`"),
        (b"BZh9", "bzip2"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x28\xb5\x2f\xfd", "zstd"),
        (b"PK\x03\x04", "a zip"),
        (b"<html>", "it begins with '<html>"),
    ],
)
def test_what_is_no_tar_is_named(start: bytes, what: str) -> None:
    with pytest.raises(TarDamage, match=f"not a readable tar.*{what}"):
        read(start + b"\1" * 2000)


def test_an_end_mark_of_gigabytes_is_no_end_mark() -> None:
    """A file that was allocated and not written: the members that should be there are not silently missing."""
    with pytest.raises(TarDamage, match="more than 67108864 zeros"):
        read(GOOD + bytes((1 << 26) + 2 * 2**20))
