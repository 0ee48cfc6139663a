"""Captions are text in every format: a row whose cell holds anything else gets a reason."""

from __future__ import annotations

import datetime
import json
import math
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.errors import InputError
from data_prep.lists.annotations import read_annotations
from data_prep.lists.list_columns import ListColumns
from data_prep.lists.row_list import ListedImage, keep_captions
from data_prep.lists.url_list import read_url_list
from data_prep.sources.catalogue import SOURCES
from data_prep.sources.list_file import SCHEMA, how_listed, is_list, read_list
from data_prep.sources.source import ListOptions

NO_TEXT = [7, 2.5, False, {"en": "a dog"}, ["a dog", {"raw": "a cat"}], [["a dog"]], "['a dog', 'a cat']"]
NO_TEXT += ['["a dog"]', "{'en': 'a dog'}", '{"en": "a dog", "de": "ein Hund"}', "a\0dog", ["a dog", 3]]
NOTHING = [None, float("nan"), "", "  ", [], [None, " "], "...", ["?!", "\u200d"]]
TEXT = ["a dog", "[laughs] a dog", "{a dog}", "'a dog', 'a cat'", "nan", "[1]", "7", "ein Hund ☕"]
PATHS = ListColumns(url="path", local=True)


def reason(image: ListedImage) -> str | None:
    return image.rejected and image.rejected.partition(":")[0]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        *((cell, "caption_not_text") for cell in (*NO_TEXT, datetime.date(2026, 1, 2), Decimal(1), ("en", "a dog"))),
        *((cell, "empty_caption") for cell in NOTHING),
        *((cell, None) for cell in TEXT),
        *((cell, "caption_not_utf8") for cell in (b"caf\xe9", "\ud800", ["a dog", b"\xff"])),
    ],
    ids=repr,
)
def test_a_cell_is_text_or_a_reason(cells: object, expected: str | None) -> None:
    """Nothing becomes a caption by `str()`; a row with one caption that is no text has none."""
    image = keep_captions("a.jpg", [cells])
    assert reason(image) == expected
    assert image.captions == ([cells] if expected is None else [])
    assert len(image.rejected or "") < 200


def test_texts_are_kept_from_every_kind_of_cell() -> None:
    """Lists, several columns, bytes that are UTF-8; blanks around them and empty ones go."""
    cells = [["a dog", None, " a cat "], b"caf\xc3\xa9", float("nan"), ""]
    assert keep_captions("a.jpg", cells) == ListedImage("a.jpg", ["a dog", "a cat", "café"])


def test_ids_are_texts_or_whole_numbers() -> None:
    """7.0 is what pandas makes of 7; 20 digits stay; no mapping and no NaN becomes an id."""
    notes = [7, 7.0, "7", " 007 ", 12345678901234567890, math.nan, 7.5, True, {"a": 1}, [7], b"x", None]
    expected = ["7", "7", "7", "007", "12345678901234567890", None, None, None, None, None, "x", None]
    assert [keep_captions("a.jpg", ["x"], id=note).id for note in notes] == expected


def test_every_reader_obeys_it(tmp_path: Path) -> None:
    """The same cells in JSON lines, in a JSON list, and as sentences of COCO."""
    cells = [*NO_TEXT, *NOTHING[:3], *TEXT]
    expected = [*["caption_not_text"] * len(NO_TEXT), *["empty_caption"] * 3, *[None] * len(TEXT)]
    entries = [{"path": f"{i}.jpg", "image": f"{i}.jpg", "caption": cell} for i, cell in enumerate(cells)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, entries)))
    (tmp_path / "a.json").write_text(json.dumps(entries))
    assert [reason(image) for image in read_url_list(tmp_path / "a.jsonl", PATHS)] == expected
    assert [reason(image) for image in read_annotations(tmp_path / "a.json")] == expected
    images = [
        {"cocoid": str(i), "filepath": "f", "filename": "1.jpg", "split": "train", "sentences": [{"raw": cell}]}
        for i, cell in enumerate(cells)
        if not isinstance(cell, list)
    ]
    (tmp_path / "coco.json").write_text(json.dumps({"images": images}))
    rows = SOURCES["coco"].read([tmp_path / "coco.json"], ListOptions(), Counter())
    found = [row.rejected and row.rejected.partition(":")[0] for row in rows]
    assert found == [why for why, cell in zip(expected, cells, strict=True) if not isinstance(cell, list)]


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([math.nan, 1.0]), ["empty_caption", "caption_not_text"]),
        (pa.array([{"en": "a dog"}, None]), ["caption_not_text", "empty_caption"]),
        (pa.array([[("en", "a dog")], []], pa.map_(pa.string(), pa.string())), ["caption_not_text", "empty_caption"]),
        (pa.array([[{"raw": "a dog"}], []]), ["caption_not_text", "empty_caption"]),
        (pa.array([[["a dog"]], [["b"]]]), ["caption_not_text"] * 2),
        (pa.array([[1, 2], [3]]), ["caption_not_text"] * 2),
        (pa.array([datetime.date(2026, 1, 2), None]), ["caption_not_text", "empty_caption"]),
        (pa.array([Decimal("1.5"), None]), ["caption_not_text", "empty_caption"]),
        (pa.array([True, None]), ["caption_not_text", "empty_caption"]),
        (pa.nulls(2), ["empty_caption"] * 2),
        (pa.array([b"a dog", b"caf\xe9"]), [None, "caption_not_utf8"]),
        (pa.array([["a dog"], [None]], pa.list_(pa.string(), 1)), [None, "empty_caption"]),
        (pa.array(["a dog", "a cat"]).dictionary_encode(), [None, None]),
        (pa.array(["a dog", "a cat"], pa.large_string()), [None, None]),
        (pa.array([["a dog"], ["a cat"]], pa.large_list(pa.large_string())), [None, None]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_a_parquet_column_of_any_type(tmp_path: Path, column: pa.Array, expected: list[str | None]) -> None:
    """Types that hold no text are reasons, those that do are captions; in the columns of a normalised list too."""
    names = pa.array(["0.jpg", "1.jpg"])
    pq.write_table(pa.table({"path": names, "caption": column}), tmp_path / "a.parquet")
    assert [reason(image) for image in read_url_list(tmp_path / "a.parquet", PATHS)] == expected
    nothing, source = pa.nulls(2), pa.array(["s", "s"])
    columns = {"url": nothing, "path": names, "captions": column, "source": source, "id": nothing, "licence": nothing}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    if is_list(tmp_path / "list.parquet"):
        assert [reason(image) for image in read_list(tmp_path / "list.parquet", "path")] == expected


@pytest.mark.parametrize("place", [None, math.nan, 3, {"a": 1}, ["a.jpg"], "", " "])
def test_an_images_name_is_text(tmp_path: Path, place: object) -> None:
    """`nan` is no path and no URL: a row without a name is a bad row."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"path": place, "caption": "a dog"}))
    assert [reason(image) for image in read_url_list(tmp_path / "a.jsonl", PATHS)] == ["bad_row"]
    row = dict.fromkeys(SCHEMA.names) | {"captions": ["a dog"], "source": "s"}
    pq.write_table(pa.Table.from_pylist([row, row | {"path": "a.jpg"}], SCHEMA), tmp_path / "list.parquet")
    assert [reason(image) for image in read_list(tmp_path / "list.parquet", "path")] == ["empty_url", None]


@pytest.mark.parametrize("how", ["page", "footer", "metadata"])
def test_a_damaged_list_is_an_error_that_names_it(tmp_path: Path, how: str) -> None:
    """Of a list that has the columns of a normalised one: no traceback, wherever the damage is."""
    path = tmp_path / "list.parquet"
    rows = [dict.fromkeys(SCHEMA.names) | {"captions": ["a dog"], "source": "s", "path": f"{i}.jpg"} for i in range(99)]
    metadata = {"data_prep_list": "{"} if how == "metadata" else {}
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA.with_metadata(metadata)), path)
    data = bytearray(path.read_bytes())
    if how == "metadata":
        with pytest.raises(InputError, match=r"list\.parquet: its metadata data_prep_list is no JSON"):
            how_listed([path])
        return
    begin, end = (4, len(data) // 4) if how == "page" else (len(data) // 2, len(data) - 8)
    data[begin:end] = b"\xaa" * (end - begin)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"list\.parquet cannot be read as parquet"):
        list(read_list(path, "path"))
    with pytest.raises(InputError, match=r"list\.parquet cannot be read as parquet"):
        list(read_url_list(path, ListColumns(url="path", captions=("captions",), local=True)))
