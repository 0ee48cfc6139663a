"""Lists as people have them: byte order marks, wide characters, compression, other line ends, and paths of no file."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from data_prep.cli import main
from data_prep.errors import InputError
from data_prep.lists.annotations import read_annotations
from data_prep.lists.exclusion import read_domains, read_hashes
from data_prep.lists.list_columns import ListColumns
from data_prep.lists.row_list import ListedImage
from data_prep.lists.url_list import read_url_list

MARK = b"\xef\xbb\xbf"
CONTENT = {
    "tsv": "url\tcaption\nhttp://a/1.jpg\ta dog\nhttp://a/2.jpg\tein Hund ☕\n",
    "csv": 'url,caption\nhttp://a/1.jpg,a dog\nhttp://a/2.jpg,"ein Hund ☕"\n',
    "jsonl": '{"url": "http://a/1.jpg", "caption": "a dog"}\n{"url": "http://a/2.jpg", "caption": "ein Hund ☕"}\n',
    "json": '[{"url": "http://a/1.jpg", "caption": "a dog"}, {"url": "http://a/2.jpg", "caption": "ein Hund ☕"}]',
}
LISTED = [ListedImage("http://a/1.jpg", ["a dog"]), ListedImage("http://a/2.jpg", ["ein Hund ☕"])]
WRAPPED: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("mark", [b"", MARK])
@pytest.mark.parametrize("ends", [b"\n", b"\r\n", b"\r"])
def test_marks_and_line_ends_are_no_content(tmp_path: Path, kind: str, mark: bytes, ends: bytes) -> None:
    """UTF-8 with and without a mark, line ends of Unix, Windows and old Macs: the same rows."""
    path = write(tmp_path / f"list.{kind}", mark + CONTENT[kind].encode().replace(b"\n", ends))
    assert list(read_url_list(path, ListColumns())) == LISTED


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_compressed_lists_are_read(tmp_path: Path, kind: str, wrapped: str) -> None:
    """With a mark inside, under names in capitals; half of one is an error that names it."""
    data = WRAPPED[wrapped](MARK + CONTENT[kind].encode())
    path = write(tmp_path / f"LIST.{kind}.{wrapped}".upper(), data)
    assert list(read_url_list(path, ListColumns())) == LISTED
    write(path, data[: len(data) // 2])
    with pytest.raises(InputError, match="cannot be unpacked"):
        list(read_url_list(path, ListColumns()))


@pytest.mark.parametrize("kind", CONTENT)
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_wide_characters_are_an_error_with_the_way_out(tmp_path: Path, kind: str, encoding: str) -> None:
    """Not thousands of bad rows: Excel and PowerShell write such lists."""
    path = write(tmp_path / f"list.{kind}", CONTENT[kind].encode(encoding))
    with pytest.raises(InputError, match=r"is UTF-(16|32).*, not UTF-8") as raised:
        list(read_url_list(path, ListColumns()))
    assert "iconv -f UTF-" in raised.value.hint


def test_lists_of_what_is_left_out_are_read_the_same(tmp_path: Path) -> None:
    """Domains and hashes with a mark and other line ends; what is no UTF-8 is named with its line."""
    digest = "0" * 64
    assert read_domains(write(tmp_path / "d.txt", MARK + b"a.org\r\nb.org\r\n")) == {"a.org", "b.org"}
    assert read_hashes(write(tmp_path / "h.txt", MARK + f"{digest}\r".encode())) == {digest}
    with pytest.raises(InputError, match="line 2 is not UTF-8"):
        read_domains(write(tmp_path / "latin.txt", b"a.org\ncaf\xe9.org\n"))
    with pytest.raises(InputError, match="is UTF-16"):
        read_hashes(write(tmp_path / "wide.txt", digest.encode("utf-16")))


def test_annotations_with_a_mark_and_other_ones(tmp_path: Path) -> None:
    """The original's lists; a second list after the first would be lost in silence, and is an error."""
    entries = json.dumps([{"image": "a.jpg", "caption": "a dog"}]).encode()
    path = write(tmp_path / "a.json", MARK + entries)
    assert list(read_annotations(path)) == [ListedImage("a.jpg", ["a dog"])]
    with pytest.raises(InputError, match="does not end after its 1 entries"):
        list(read_annotations(write(path, entries + entries)))
    with pytest.raises(InputError, match="is nested too deep"):
        list(read_annotations(write(path, b"[" + b"[" * 100_000)))
    with pytest.raises(InputError, match="is not a JSON list") as raised:
        list(read_annotations(write(path, entries[1:-1])))
    assert ".jsonl" in raised.value.hint


def test_what_is_no_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder, a pipe, nothing: exit 2, and no command waits for a writer that never comes."""
    os.mkfifo(tmp_path / "pipe.tsv")
    (tmp_path / "folder.tsv").mkdir()
    for name, what in (("pipe.tsv", "is no plain file"), ("folder.tsv", "is a folder"), ("no.tsv", "file not found")):
        assert main(["download", "--urls", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        assert what in capsys.readouterr().err
        assert main(["list", "cc3m", str(tmp_path / name), "--out", str(tmp_path / "out.parquet")]) == 2
        assert what in capsys.readouterr().err


def test_a_zip_that_cannot_be_unpacked_is_an_error(tmp_path: Path) -> None:
    """A password, a method that Python does not know: no traceback."""
    path = tmp_path / "list.tsv.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("list.tsv", CONTENT["tsv"])
    data = path.read_bytes()
    assert list(read_url_list(path, ListColumns())) == LISTED
    for offset, value in ((6, 1), (8, 9)):  # flag bit 0: encrypted; method 9: Deflate64
        changed = bytearray(data)
        for mark, at in ((b"PK\x03\x04", offset), (b"PK\x01\x02", offset + 2)):
            changed[data.index(mark) + at] = value
        with pytest.raises(InputError, match="cannot be unpacked"):
            list(read_url_list(write(path, bytes(changed)), ListColumns()))
