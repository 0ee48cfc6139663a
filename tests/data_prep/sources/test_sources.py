"""The five sources' published files, in small copies written by hand with the oddities that the real ones have."""

from __future__ import annotations

import gzip
import json
import re
import shlex
import zipfile
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from base.errors import UsageError
from data_prep.cli import build_parser, main
from data_prep.errors import InputError
from data_prep.sources.catalogue import SOURCES
from data_prep.sources.list_file import is_list, list_source, read_list
from data_prep.sources.source import ListedRow, ListOptions


def listed(name: str, *files: Path, **chosen: object) -> tuple[list[ListedRow], Counter[str]]:
    """Rows of a source, and what was left out by choice."""
    left_out: Counter[str] = Counter()
    rows = list(SOURCES[name].read(files, ListOptions(**chosen), left_out))  # type: ignore[arg-type]
    return rows, +left_out


def reasons(rows: list[ListedRow]) -> list[str | None]:
    return [row.rejected and row.rejected.partition(":")[0] for row in rows]


def write(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


CC3M = (
    b"a very typical bus station\thttp://a.example/1.jpg?w=1&h=2\r\n"
    b'sierra looked stunning in this top and this " skirt\thttp://a.example/2 \xc3\xa9.jpg\n'
    b"caf\xe9\thttp://a.example/3.jpg\n"
    b"http://a.example/4.jpg\n"
    b"no URL\tN/A\n"
    b"  \thttp://a.example/6.jpg\n"
    b"two\tcaptions\thttp://a.example/7.jpg"
)


@pytest.mark.parametrize("name", ["cc3m", "cc12m"])
@pytest.mark.parametrize("turned", [False, True])
def test_conceptual_captions_in_either_order_lose_no_line(tmp_path: Path, name: str, turned: bool) -> None:
    """CC3M puts the caption first, CC12M the URL; both readers look, for any first line."""
    lines = [b"\t".join(line.split(b"\t")[:: -1 if turned else 1]) for line in CC3M.splitlines()]
    path = tmp_path / "list.tsv"
    path.write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    rows, left_out = listed(name, path)
    assert reasons(rows) == [
        *(None, None, "caption_not_utf8", "bad_row", "bad_url", "empty_caption", "bad_row"),
    ]
    assert [(row.url, row.captions) for row in rows[:2]] == [
        ("http://a.example/1.jpg?w=1&h=2", ["a very typical bus station"]),
        ("http://a.example/2%20%C3%A9.jpg", ['sierra looked stunning in this top and this " skirt']),
    ]
    assert left_out == {}


def test_a_header_and_two_files_and_masked_names(tmp_path: Path) -> None:
    """A header somebody added is no row, a gzipped file is read as it is, and <PERSON> stays what it is."""
    first, second = tmp_path / "a.tsv", tmp_path / "b.tsv.gz"
    first.write_text("url\tcaption\nhttp://a.example/1.jpg\t<PERSON> at the &amp; match\n")
    with gzip.open(second, "wb") as file:
        file.write(b"<PERSON> was here\thttp://a.example/2.jpg\n")
    rows, _ = listed("cc12m", first, second)
    assert [row.captions for row in rows] == [["<PERSON> at the &amp; match"], ["<PERSON> was here"]]


def test_a_file_without_urls_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\n" * 3)
    with pytest.raises(InputError, match="no URLs in the first"):
        listed("cc3m", path)


SBU_URLS = ["http://static.example/1.jpg", "http://static.example/2.jpg", "", "http://static.example/4.jpg"]
SBU_CAPTIONS = ["Tiffany &amp;amp; Co.", "33&amp;quot; truck &lt;3", "no URL", "caf\u00e9 &eacute; \u2615"]
SBU_READ = [["Tiffany & Co."], ['33" truck <3'], [], ["café é ☕"]]


def sbu_files(folder: Path, kind: str, captions: list[str]) -> list[Path]:
    if kind == "json":
        content = {"image_urls": SBU_URLS, "user_ids": ["1@N00"] * 4, "captions": captions}
        path = folder / "sbu-captions-all.json"
        path.write_text(json.dumps(content))  # ASCII, as published: é is \u00e9 there
        return [path]
    paths = [folder / f"SBU_captioned_photo_dataset_{name}.txt" for name in ("captions", "urls")]
    for path, lines in zip(paths, (captions, SBU_URLS), strict=True):
        path.write_bytes("\r\n".join([*lines, ""]).encode("utf-8-sig"))
    return paths


@pytest.mark.parametrize("kind", ["json", "txt"])
def test_sbu_is_unescaped_twice_from_either_form(tmp_path: Path, kind: str) -> None:
    """The JSON's three lists and the two text files give the same rows, in any order of the files."""
    for files in (sbu_files(tmp_path, kind, SBU_CAPTIONS), sbu_files(tmp_path, kind, SBU_CAPTIONS)[::-1]):
        rows, _ = listed("sbu", *files)
        assert [row.captions for row in rows] == SBU_READ
        assert reasons(rows) == [None, None, "empty_url", None]


@pytest.mark.parametrize("kind", ["json", "txt"])
def test_sbu_lists_of_different_length_are_refused(tmp_path: Path, kind: str) -> None:
    """One line too few somewhere means that every caption after it may be another image's."""
    with pytest.raises(InputError, match="row 4 has only a URL"):
        listed("sbu", *sbu_files(tmp_path, kind, SBU_CAPTIONS[:3]))
    with pytest.raises(UsageError, match="sbu is"):
        listed("sbu", *[tmp_path / "x"] * 3)


def karpathy(number: int, split: str, *captions: str, folder: str = "val2014") -> dict[str, object]:
    return {
        "filepath": folder,
        "sentids": list(range(len(captions))),
        "filename": f"COCO_{folder}_{number:012d}.jpg",
        "imgid": number % 7,
        "split": split,
        "sentences": [
            {"tokens": caption.lower().split(), "raw": caption, "imgid": number % 7, "sentid": place}
            for place, caption in enumerate(captions)
        ],
        "cocoid": number,
    }


@pytest.fixture
def coco(tmp_path: Path) -> dict[str, Path]:
    images = [
        karpathy(391895, "test", "A man with a red helmet."),
        karpathy(9, "train", "Closeup of bins of food.", " closeup of  bins of food. ", "A meal\n", folder="train2014"),
        karpathy(522418, "restval", "A woman cutting a cake.", "A “woman”, ☕"),
        karpathy(42, "val", "Two sandals"),
        karpathy(25, "train", folder="train2014"),
        karpathy(9, "train", "listed again", folder="train2014"),
    ]
    own = {
        "info": {"year": 2014, "nested": {"images": []}},
        "images": [
            {"license": 3, "file_name": "x.jpg", "coco_url": f"http://images.example/{number:012d}.jpg", "id": number}
            for number in (9, 522418)
        ],
        "licenses": [{"url": "http://creativecommons.org/licenses/by/2.0/", "id": 3, "name": "Attribution"}],
        "annotations": [{"image_id": 9, "id": 1, "caption": "Closeup of bins of food."}],
    }
    return {
        "split": write(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"}),
        "captions": write(tmp_path / "captions_train2014.json", own),
    }


def test_coco_trains_on_train_and_restval(coco: dict[str, Path]) -> None:
    """Paths as the zips unpack, ids, distinct captions; an image without captions and one listed twice are counted."""
    rows, left_out = listed("coco", coco["split"])
    assert [(row.path, row.id, row.captions) for row in rows[:2]] == [
        ("train2014/COCO_train2014_000000000009.jpg", "9", ["Closeup of bins of food.", "A meal"]),
        ("val2014/COCO_val2014_000000522418.jpg", "522418", ["A woman cutting a cake.", "A “woman”, ☕"]),
    ]
    assert reasons(rows) == [None, None, "empty_caption", "duplicate_image"]
    assert left_out == {"other_split": 2, "duplicate_caption": 1}
    assert [row.url for row in rows] == [None] * 4
    for split, number in (("val", "42"), ("test", "391895")):
        assert [row.id for row in listed("coco", coco["split"], split=split)[0]] == [number]


def test_cocos_own_files_add_urls_and_licences(coco: dict[str, Path]) -> None:
    """In any order they are given; images they lack keep their paths."""
    rows, _ = listed("coco", coco["captions"], coco["split"])
    assert [(row.url, row.licence) for row in rows[:3]] == [
        ("http://images.example/000000000009.jpg", "http://creativecommons.org/licenses/by/2.0/"),
        ("http://images.example/000000522418.jpg", "http://creativecommons.org/licenses/by/2.0/"),
        (None, None),
    ]


def test_coco_without_karpathys_file_is_refused(coco: dict[str, Path], tmp_path: Path) -> None:
    """COCO's train2014 alone would do, val2014 would bring the test images: so the split is asked for."""
    with pytest.raises(UsageError, match=r"0 of these 1 files are Karpathy's"):
        listed("coco", coco["captions"])
    with pytest.raises(InputError, match="is neither"):
        listed("coco", write(tmp_path / "other.json", {"images": [{"id": 1}]}))


def region(image: int, phrase: object, width: int = 40, height: int = 30) -> dict[str, object]:
    return {"region_id": 1, "width": width, "height": height, "image_id": image, "phrase": phrase, "y": 1, "x": 2}


@pytest.fixture
def genome(tmp_path: Path) -> tuple[Path, Path]:
    entries: list[object] = [
        # the published file's key is "id"; an entry may carry another image's, the regions know better
        {"id": 1, "regions": [region(1, "the clock is green"), region(1, "The clock  is green"), region(1, "shade")]},
        {"image_id": 2, "regions": [region(2, "man's shoe", 5, 4), region(2, " "), region(2, "una señal ☕")]},
        {"id": 77, "regions": [region(3, "a tree")]},
        {"id": 4, "regions": []},
        {"id": 5, "regions": [region(5, "an image that image_data.json lacks")]},
        {"regions": [{"phrase": "whose?"}]},
        {"id": 1, "regions": [region(1, "listed again")]},
        {"id": 6, "regions": [region(6, None), region(6, "a bus")]},
    ]
    images = [
        {
            "width": 800,
            "url": f"https://cs.example/people/rak248/VG_100K{'_2' if number % 2 else ''}/{number}.jpg",
            "height": 600,
            "image_id": number,
            "coco_id": 1000 + number if number == 3 else None,
            "flickr_id": None,
        }
        for number in (1, 2, 3, 4, 6, 8)
    ]
    return write(tmp_path / "region_descriptions.json", entries), write(tmp_path / "image_data.json", images)


def test_visual_genome_gives_one_row_an_image(genome: tuple[Path, Path]) -> None:
    """Phrases become captions, equal ones once; ids come from the regions, folders from the URLs."""
    rows, left_out = listed("visual_genome", *genome)
    assert reasons(rows) == [None, None, None, "empty_caption", "bad_row", "bad_row", "duplicate_image", None]
    assert [(row.id, row.path, row.captions) for row in rows if row.rejected is None] == [
        ("1", "VG_100K_2/1.jpg", ["the clock is green", "shade"]),
        ("2", "VG_100K/2.jpg", ["man's shoe", "una señal ☕"]),
        ("3", "VG_100K_2/3.jpg", ["a tree"]),
        ("6", "VG_100K/6.jpg", ["a bus"]),
    ]
    assert rows[0].url == "https://cs.example/people/rak248/VG_100K_2/1.jpg"
    assert left_out == {"duplicate_caption": 1, "region_without_phrase": 1, "image_without_regions": 1}
    assert listed("visual_genome", *genome[::-1]) == (rows, left_out)


def test_visual_genomes_small_regions_and_evaluation_images_can_be_left_out(genome: tuple[Path, Path]) -> None:
    rows, left_out = listed("visual_genome", *genome, min_region_area=21, excluded_coco_ids=frozenset({1003, 1, 2, 6}))
    assert [row.id for row in rows if row.rejected is None] == ["1", "2", "6"]
    assert rows[1].captions == ["una señal ☕"]
    assert (left_out["small_region"], left_out["excluded_coco_image"]) == (1, 1)


def test_visual_genome_needs_both_files(genome: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=r"region_descriptions\.json and image_data\.json"):
        listed("visual_genome", genome[0])


def test_the_list_command_writes_the_schema_and_reports_what_it_left_out(
    coco: dict[str, Path], genome: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Visual Genome without the images of COCO's val and test; the file's metadata has the screen's counts."""
    moved = json.loads(genome[1].read_text())
    moved[0]["coco_id"] = 42  # of Karpathy's val
    packed = tmp_path / "region_descriptions.json.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(genome[0], "region_descriptions.json")
    out = tmp_path / "lists" / "vg.parquet"
    files = [str(packed), str(write(tmp_path / "image_data.json", moved))]
    assert main(["list", "visual_genome", *files, "--out", str(out), "--exclude-coco", str(coco["split"])]) == 0
    printed = capsys.readouterr().out
    assert "6  images, 3 usable, with 4 captions" in printed
    assert "left out          2  excluded_coco_image" in printed and "rejected          2  bad_row" in printed
    schema = pq.read_schema(out)
    assert schema.names == ["url", "path", "captions", "source", "id", "licence", "rejected"]
    assert schema.field("captions").type == pa.list_(pa.string())
    made = json.loads(pq.read_metadata(out).metadata[b"data_prep_list"])
    assert made["rows"] == 6 and made["left_out"]["excluded_coco_image"] == 2
    assert made["rejected"] == {"bad_row": 2, "empty_caption": 1}
    assert is_list(out) and list_source(out) == "visual_genome"
    assert [image.url for image in read_list(out, "path") if image.rejected is None] == [
        *("VG_100K/2.jpg", "VG_100K_2/3.jpg", "VG_100K/6.jpg"),
    ]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["cc3m", "{dir}/no.tsv", "--out", "{dir}/o.parquet"], "file not found"),
        (["cc3m", "{dir}/a.tsv", "--out", "{dir}/o.csv"], "is no .parquet"),
        (["cc3m", "{dir}/a.tsv", "--out", "{dir}/o.parquet", "--split", "val"], "--split means nothing for cc3m"),
        (["coco", "{dir}/a.tsv", "--out", "{dir}/o.parquet", "--min-region-area", "3"], "means nothing for coco"),
        (["coco", "{dir}/a.tsv", "--out", "{dir}/o.parquet"], "is not a JSON object"),
        (["cc4m", "{dir}/a.tsv", "--out", "{dir}/o.parquet"], "did you mean cc3m?"),
    ],
)
def test_a_list_that_cannot_be_made_says_why(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.tsv").write_text("a\thttp://a.example/1.jpg\n")
    assert main(["list", *(flag.replace("{dir}", str(tmp_path)) for flag in flags)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("o.*")) and not list(tmp_path.glob(".o*"))


def test_a_list_of_two_sources_wants_a_name(tmp_path: Path) -> None:
    rows = [{"url": "http://a/1", "path": None, "captions": ["x"], "source": name} for name in ("coco", "sbu")]
    pq.write_table(pa.Table.from_pylist([row | {"id": None, "licence": None} for row in rows]), tmp_path / "l.parquet")
    with pytest.raises(InputError, match="rows of 2 sources: coco, sbu"):
        list_source(tmp_path / "l.parquet")
    table = pq.read_table(tmp_path / "l.parquet")
    assert is_list(tmp_path / "l.parquet")
    pq.write_table(table.set_column(2, "captions", [["x", "y"]]), tmp_path / "text.parquet")
    assert not is_list(tmp_path / "text.parquet")
    with pytest.raises(InputError, match=r"no row of l\.parquet has a path"):
        list(read_list(tmp_path / "l.parquet", "path"))


def test_every_number_of_a_source_has_an_origin(capsys: pytest.CaptureFixture[str]) -> None:
    """`sources --json` has the origin of rows, yield, resolution and licence, and docs/sources.md has the numbers."""
    assert main(["sources", "--json", "--processes", "2"]) == 0
    described = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(described) == ["cc3m", "cc12m", "sbu", "coco", "visual_genome"]
    page = (Path(__file__).parents[3] / "docs" / "sources.md").read_text()
    for one in described.values():
        assert all(one[f"{fact}_from"] for fact in ("rows", "yield", "resolution", "licence", "shards", "in_flight"))
        assert one["images"] <= one["rows"] and one["shards_gib"] > 0 and one["files"]
        assert f"{one['rows']:,}" in page and f"{one['expected_yield']:.1%}".replace(".0%", "%") in page, one["name"]
    assert main(["sources"]) == 0
    assert "conceptual-12m" not in (table := capsys.readouterr().out) and "12423374" in table


def test_the_commands_on_the_page_can_be_given() -> None:
    """docs/sources.md: each parses, with flags that exist."""
    page = (Path(__file__).parents[3] / "docs" / "sources.md").read_text()
    commands = re.findall(r"^    python -m data_prep (.*)$", page, re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        build_parser()[0].parse_args(shlex.split(command, comments=True))
