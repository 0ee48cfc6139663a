"""Lists as people have them: quotes, missing headers, other encodings, odd URLs. No row is lost."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from base.errors import UsageError
from data_prep.errors import InputError
from data_prep.lists import json_stream, published_file
from data_prep.lists.annotations import read_annotations
from data_prep.lists.json_stream import CHUNK_CHARACTERS
from data_prep.lists.list_columns import ListColumns
from data_prep.lists.row_list import ListedImage, read_shard_rows, write_rows
from data_prep.lists.url_list import read_url_list
from data_prep.lists.web_url import BadUrl, normalise_url


def reasons(images: list[ListedImage]) -> list[str | None]:
    return [None if image.rejected is None else image.rejected.partition(":")[0] for image in images]


def test_tsv_quotes_are_letters_and_every_line_is_a_row(tmp_path: Path) -> None:
    """An unbalanced quote swallows nothing, a balanced one stays, and a bad row keeps its place with a reason."""
    path = tmp_path / "list.tsv"
    path.write_bytes(
        b"url\tcaption\n"
        b'http://a/1.jpg\t"an unbalanced quote\n'
        b'http://a/2.jpg\t"balanced"\r\n'
        b"http://a/3.jpg\t   \n"
        b"http://a/4.jpg\tcaf\xe9\n"
        b"http://a/5.jpg\tone\ttwo\n"
        b"http://a/6.jpg\n"
        b"file:///etc/passwd\ta file\n"
        b"not an address\twords\n"
        b"\tno address\n"
        b"http://a/\xe9.jpg\tan address in Latin-1\n"
        b"http://a/a b\xc3\xa9.jpg?q=1 2#part\tcaf\xc3\xa9"
    )
    images = list(read_url_list(path, ListColumns()))
    assert reasons(images) == [
        *(None, None, "empty_caption", "caption_not_utf8", "bad_row", "bad_row"),
        *("unsupported_scheme", "bad_url", "empty_url", "bad_url", None),
    ]
    assert images[0].captions == ['"an unbalanced quote']
    assert images[1].captions == ['"balanced"']
    assert images[-1] == ListedImage("http://a/a%20b%C3%A9.jpg?q=1%202", ["café"])


@pytest.mark.parametrize("line", ["a cat\thttp://a/1.jpg\n", "http://a/1.jpg\ta cat\n"])
def test_a_headerless_list_is_recognised_by_its_first_row(tmp_path: Path, line: str) -> None:
    """CC3M lists caption then URL, CC12M the other way round, both without a header."""
    path = tmp_path / "list.tsv"
    path.write_text(line * 2)
    assert list(read_url_list(path, ListColumns())) == [ListedImage("http://a/1.jpg", ["a cat"])] * 2


def test_columns_can_be_named_and_captions_can_be_several(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    path.write_text("7\thttp://a/1.jpg\ta cat\t\n8\thttp://a/2.jpg\ta dog\ta hound\n")
    columns = ListColumns(url="address", captions=("title", "alt"), names=("id", "address", "title", "alt"))
    assert [image.captions for image in read_url_list(path, columns)] == [["a cat"], ["a dog", "a hound"]]


@pytest.mark.parametrize("kind", ["tsv", "csv", "jsonl", "parquet"])
def test_ids_and_licences_come_along_as_they_are(tmp_path: Path, kind: str) -> None:
    """Every format gives the same notes: text or a number, stripped; nothing where the cell is empty."""
    rows = [{"n": 7, "u": "http://a/1.jpg", "c": "a cat", "l": " CC BY 2.0 "}]
    rows += [{"n": 8, "u": "http://a/2.jpg", "c": "a dog", "l": ""}]
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        separator = "\t" if kind == "tsv" else ","
        path.write_text("\n".join(separator.join(map(str, line)) for line in ("nucl", *(r.values() for r in rows))))
    columns = ListColumns(url="u", captions=("c",), id="n", licence="l")
    assert list(read_url_list(path, columns)) == [
        ListedImage("http://a/1.jpg", ["a cat"], None, "7", "CC BY 2.0"),
        ListedImage("http://a/2.jpg", ["a dog"], None, "8", None),
    ]


def test_csv_reads_quoted_fields_and_refuses_broken_ones(tmp_path: Path) -> None:
    """Quoted commas and line feeds are text; a quote that never closes would swallow rows, so it is an error."""
    path = tmp_path / "list.csv"
    path.write_text('caption,url\n"one, two\nthree",http://a/1.jpg\n', encoding="utf-8-sig")
    assert list(read_url_list(path, ListColumns())) == [ListedImage("http://a/1.jpg", ["one, two\nthree"])]
    path.write_text('caption,url\n"never closed,http://a/1.jpg\nx,http://a/2.jpg\n')
    with pytest.raises(InputError, match=r"list\.csv, line 2"):
        list(read_url_list(path, ListColumns()))


def test_a_quote_that_is_never_closed_swallows_nothing_in_silence(tmp_path: Path) -> None:
    """A hundred lines in one cell are an error that names the first; a URL in a cell of several is a bad row."""
    path = tmp_path / "list.csv"
    rows = [f"a dog,http://a/{i}.jpg\n" for i in range(200)]
    path.write_text("".join(["caption,url\n", *rows[:3], '"not closed,http://a/3.jpg\n', *rows[4:]]))
    with pytest.raises(InputError, match=r"list\.csv, line 5: a quoted cell of more than 100 lines"):
        list(read_url_list(path, ListColumns()))
    path.write_text(
        "".join(["caption,url\n", rows[0], '"not closed,http://a/1.jpg\n', '27",http://a/2.jpg\n', rows[3]])
    )
    images = list(read_url_list(path, ListColumns()))
    assert reasons(images) == [None, "bad_row", None] and "line 3" in (images[1].rejected or "")


@pytest.mark.parametrize("kind", ["tsv", "csv"])
def test_first_rows_that_are_not_like_the_others(tmp_path: Path, kind: str) -> None:
    """A first row that lacks a column is that row's fault; blank lines are no rows; a header may repeat --columns."""
    path = tmp_path / f"list.{kind.upper()}"
    good = ["a dog\thttp://a/1.jpg", "a cat\thttp://a/2.jpg"]

    def listed(lines: list[str], columns: ListColumns) -> list[str | None]:
        path.write_text("\n".join(lines).replace("\t", "\t" if kind == "tsv" else ","))
        return reasons(list(read_url_list(path, columns)))

    named = ListColumns(names=("caption", "url"))
    assert listed(["only a caption", "", *good, "", ""], ListColumns()) == ["bad_row", None, None]
    assert listed(["only a caption", *good], named) == ["bad_row", None, None]
    assert listed(["caption\turl", "short", *good], ListColumns()) == ["bad_row", None, None]
    assert listed(["caption\turl", *good], named) == [None, None]
    with pytest.raises(InputError, match="is empty"):
        listed([], ListColumns())
    assert listed(["caption\turl"], ListColumns()) == []
    with pytest.raises(UsageError, match="has 2 columns named url"):
        listed(["url\turl\tcaption", "a\tb\tc"], ListColumns())
    with pytest.raises(UsageError, match=r"--columns names 2 columns, .* has 1"):
        listed(["a", "b"], named)


def test_rows_of_json_may_lack_a_column_and_say_in_which_line_they_are(tmp_path: Path) -> None:
    """The first one too; a column that no row has is a mistake in the command. What is shown of a line is short."""
    path = tmp_path / "list.ndjson"
    rows = [{"url": "http://a/1.jpg"}, {"url": "http://a/2.jpg", "caption": "x", "n": "7"}, {"caption": "y" * 1000}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n" + '"' + "z" * 1000 + '"\n' + "[" * 100_000)
    images = list(read_url_list(path, ListColumns(id="n")))
    assert reasons(images) == ["empty_caption", None, "empty_url", "bad_row", "bad_row"]
    assert [(image.rejected or "").partition(": ")[2][:7] for image in images if image.rejected] == [
        *("line 1:", "line 3:", "line 5:", "line 6:"),
    ]
    assert all(len(image.rejected or "") < 200 for image in images)
    with pytest.raises(UsageError, match="has no column 'title'"):
        list(read_url_list(path, ListColumns(captions=("title",))))


@pytest.mark.parametrize("name", ["list.tsv", "list.csv", "list.jsonl", "list.json"])
def test_a_message_shows_little_of_a_list(tmp_path: Path, name: str) -> None:
    """A list with a thousand columns, or a megabyte in one: the error is a line, without control characters."""
    path = tmp_path / name
    many = [f"column{i}\x1b[2J" for i in range(1000)] + ["x" * 1_000_000]
    if "json" in name:
        row = json.dumps(dict.fromkeys(many, "x"))
        path.write_text(row if name.endswith("jsonl") else f"[{row}]")
    else:
        path.write_text(("\t" if name.endswith("tsv") else ",").join(many) + "\n")
    with pytest.raises(UsageError) as raised:
        list(read_url_list(path, ListColumns()))
    assert len(raised.value.message) < 200 and len(raised.value.hint) < 400 and "\x1b" not in str(raised.value)


def test_jsonl_and_parquet_take_lists_and_survive_bad_text(tmp_path: Path) -> None:
    """Both formats give the same rows: lists, nothing at all, and text that is not UTF-8."""
    lines = [
        json.dumps({"url": "http://a/1.jpg", "caption": ["a cat", " ", "a tom"]}).encode(),
        json.dumps({"url": "http://a/2.jpg", "caption": None}).encode(),
        b'{"url": "http://a/3.jpg", "caption": ["caf\xe9"]}',
    ]
    jsonl = tmp_path / "list.jsonl"
    jsonl.write_bytes(b"\n".join(lines))
    parquet = tmp_path / "list.parquet"
    captions = pa.array([[b"a cat", b" ", b"a tom"], None, [b"caf\xe9"]], pa.list_(pa.binary()))
    strings = pa.ListArray.from_arrays(
        captions.offsets,
        pa.Array.from_buffers(pa.string(), len(captions.values), captions.values.buffers()),
        mask=captions.is_null(),
    )
    pq.write_table(pa.table({"url": [f"http://a/{i}.jpg" for i in (1, 2, 3)], "caption": strings}), parquet)
    expected = [["a cat", "a tom"], [], []]
    for path in (jsonl, parquet):
        images = list(read_url_list(path, ListColumns()))
        assert [image.captions for image in images] == expected, path.name
        assert reasons(images) == [None, "empty_caption", "caption_not_utf8"], path.name


def test_broken_json_lines_keep_their_place(tmp_path: Path) -> None:
    path = tmp_path / "list.jsonl"
    path.write_text(
        '{"url": "http://a/1.jpg", "caption": "a"}\n{"url": \n[1]\n{"url": "http://a/2.jpg", "caption": "\\ud800"}\n'
    )
    assert reasons(list(read_url_list(path, ListColumns()))) == [None, "bad_row", "bad_row", "caption_not_utf8"]


@pytest.mark.parametrize("name", ["list.tsv", "list.csv", "list.jsonl", "list.parquet"])
def test_an_unknown_column_is_named_with_the_nearest(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.table({"address": ["http://a/1.jpg"], "captions": ["x"]}), path)
    elif name.endswith("jsonl"):
        path.write_text('{"address": "http://a/1.jpg", "captions": "x"}\n')
    else:
        path.write_text(("address,captions\na,x\n").replace(",", "\t" if name.endswith("tsv") else ","))
    with pytest.raises(UsageError) as raised:
        list(read_url_list(path, ListColumns(url="address", captions=("caption",))))
    assert raised.value.message == f"{name} has no column 'caption'"
    assert "did you mean captions?" in raised.value.hint


@pytest.mark.parametrize(
    ("listed", "asked"),
    [
        (" http://a.org/x.jpg ", "http://a.org/x.jpg"),
        ("https://a.org:8443/%7Ex/%20y?a=b&c=%2F", "https://a.org:8443/%7Ex/%20y?a=b&c=%2F"),
        ("HTTP://A.org/ä ö.jpg", "http://a.org/%C3%A4%20%C3%B6.jpg"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://[::1]:80/x", "http://[::1]:80/x"),
        ("http://user:secret@a.org/x", "http://a.org/x"),
    ],
)
def test_urls_are_encoded_once(listed: str, asked: str) -> None:
    assert normalise_url(listed) == asked
    assert normalise_url(asked) == asked


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        ("", "empty_url"),
        ("//a.org/x", "bad_url"),
        ("a.org/x.jpg", "bad_url"),
        ("http:///x.jpg", "bad_url"),
        ("http://a.org:port/x", "bad_url"),
        ("http://[::1/x", "bad_url"),
        ("http://a b.org/x", "bad_url"),
        ("data:image/png;base64,AAAA", "unsupported_scheme"),
        ("ftp://a.org/x.jpg", "unsupported_scheme"),
    ],
)
def test_urls_that_cannot_be_asked_have_a_reason(listed: str, reason: str) -> None:
    with pytest.raises(BadUrl, match=f"^{reason}: "):
        normalise_url(listed)


def test_annotations_stream_across_chunks_and_name_bad_entries(tmp_path: Path) -> None:
    """Entries of every length, one cut by the reading buffer: all there, in order."""
    entries = [{"image": f"{i}.jpg", "caption": f"{i} " + "x" * (i * 997 % 5000)} for i in range(1500)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(entries))
    assert path.stat().st_size > 2 * CHUNK_CHARACTERS
    assert [(image.url, image.captions) for image in read_annotations(path)] == [
        (entry["image"], [entry["caption"].strip()]) for entry in entries
    ]
    odd = [
        {"image": "a.jpg", "caption": ["b", " c "]},
        {"caption": "x"},
        7,
        {"image": "a.jpg", "caption": 3},
        {"image": "a.jpg"},
    ]
    path.write_text(json.dumps(odd))
    assert reasons(list(read_annotations(path))) == [None, "bad_row", "bad_row", "caption_not_text", "empty_caption"]


def test_a_broken_entry_is_not_read_for_to_the_end_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault is reported without reading all that follows it: here ten kilobytes of a million."""
    monkeypatch.setattr(json_stream, "CHUNK_CHARACTERS", 1000)
    monkeypatch.setattr(json_stream, "MAX_VALUE_CHARACTERS", 10_000)
    path = tmp_path / "a.json"
    path.write_text('[1, 2, {"image": broken' + " " * 1_000_000)
    read = 0
    real = io.TextIOWrapper.read

    class Counting(io.TextIOWrapper):
        def read(self, size: int | None = -1, /) -> str:
            nonlocal read
            text = real(self, size)
            read += len(text)
            return text

    monkeypatch.setattr(published_file.io, "TextIOWrapper", Counting)
    with pytest.raises(InputError, match="broken JSON after 2 entries"):
        list(json_stream.stream_json_list(path))
    assert read < 20_000


@pytest.mark.parametrize("text", ["", "{}", '[{"image": "a.jpg"', "[1, 2,, x"])
def test_annotations_that_are_no_list_are_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a\.json"):
        list(read_annotations(path))


def test_a_shard_reads_back_its_own_rows(tmp_path: Path) -> None:
    """Seven rows in shards of three: row numbers run through, the last shard is short."""
    images = [
        ListedImage(f"http://a/{i}", [f"é {i}"], "bad_row: x" if i == 4 else None, str(i) if i % 2 else None, "CC0")
        for i in range(7)
    ]
    assert write_rows(tmp_path / "rows.parquet", iter(images), 3) == 7
    assert read_shard_rows(tmp_path / "rows.parquet", 1) == {3: images[3], 4: images[4], 5: images[5]}
    assert read_shard_rows(tmp_path / "rows.parquet", 2) == {6: images[6]}
