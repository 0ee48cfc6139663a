"""Tars as macOS, Windows, GNU tar and others write them: samples, and true reasons for what is none."""

from __future__ import annotations

import gzip
import json
import random
import unicodedata
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.stages.tar_samples import TarSample, read_tar
from tests.support.data_prep_runs import failures, samples
from tests.support.hostile_images import halves, jpeg
from tests.support.raw_tar import END, header, member, pax, pax_record

APPLE_DOUBLE = b"\x00\x05\x16\x07" + bytes(60)


def read(tmp_path: Path, *members: bytes, end: bytes = END) -> list[TarSample]:
    """The samples of a tar of these members."""
    path = tmp_path / "x.tar"
    path.write_bytes(b"".join(members) + end)
    found, damage = read_tar(path)
    assert damage is None
    return found


def captions(found: list[TarSample]) -> list[list[str]]:
    return [sample.listed.captions for sample in found]


def reasons(found: list[TarSample]) -> list[str | None]:
    return [sample.listed.rejected for sample in found]


def test_what_macos_adds_is_no_sample(tmp_path: Path) -> None:
    """`._NAME` before each file, `.DS_Store`, `__MACOSX`, extended attributes in PAX headers, names in NFD."""
    name = unicodedata.normalize("NFD", "é")
    xattr = pax(
        pax_record("mtime", "1700000000.25"),
        pax_record("LIBARCHIVE.xattr.com.apple.quarantine", "MDA4MTs2"),
        pax_record("SCHILY.xattr.com.apple.quarantine", b"\x00\xff=\n"),
    )
    (sample,) = read(
        tmp_path,
        header("./", 0, b"5"),
        member("./._.DS_Store", APPLE_DOUBLE) + member("./.DS_Store", b"Bud1"),
        member(f"./._{name}.jpg", APPLE_DOUBLE) + xattr + member(f"./{name}.jpg", b"picture"),
        member(f"./._{name}.txt", APPLE_DOUBLE) + xattr + member(f"./{name}.txt", b"a fine caption"),
        member(f"__MACOSX/._{name}.jpg", b"x"),
    )
    assert (sample.listed.captions, sample.listed.rejected, sample.size) == (["a fine caption"], None, 7)


def test_a_sample_whose_name_begins_as_apples_files_do_is_one(tmp_path: Path) -> None:
    """The content decides what is a companion of macOS; here it is an image, and its reason is counted."""
    (sample,) = read(tmp_path, member("._a.jpg", b"\xff\xd8\xff") + member("._a.txt", b"a caption"))
    assert sample.listed.rejected is not None


def test_what_windows_adds_is_no_sample(tmp_path: Path) -> None:
    """And extensions in capitals, as cameras write them."""
    (sample,) = read(
        tmp_path,
        member("Thumbs.db", b"x") + member("desktop.ini", b"x") + member("$RECYCLE.BIN/a.jpg", b"x"),
        member("IMG_1.JPG", b"picture") + member("IMG_1.TXT", b"a fine caption"),
    )
    assert sample.listed.captions == ["a fine caption"]


def test_two_ways_to_write_an_accent_are_one_name(tmp_path: Path) -> None:
    one, other = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    (sample,) = read(tmp_path, member(f"{one}.jpg", b"p"), member(f"{other}.txt", b"a caption"))
    assert sample.listed.captions == ["a caption"]


def test_names_are_keys_and_lead_nowhere(tmp_path: Path) -> None:
    """`./`, `//` and `/` at the start fall away; `..` is a name like another: nothing is opened by it."""
    names = ["./a", "d//b", "/etc/c", "../../d", "d/./e"]
    found = read(tmp_path, *(member(f"{n}.jpg", b"p") + member(f"{n}.txt", n.encode()) for n in names))
    assert captions(found) == [[name] for name in names]
    assert [sample.listed.id for sample in found] == ["a", "d/b", "etc/c", "../../d", "d/e"]


def test_a_name_that_is_not_utf8_does_not_cost_the_sample(tmp_path: Path) -> None:
    """As 7-Zip and old tars write names: shown with its bytes, and paired by them."""
    (sample,) = read(tmp_path, member(b"caf\xe9.jpg", b"p"), member(b"caf\xe9.txt", b"a caption"))
    assert (sample.listed.captions, sample.listed.url) == (["a caption"], r"x.tar/caf\xe9.jpg")


def test_members_in_the_order_of_the_disk_are_put_together(tmp_path: Path) -> None:
    """`tar -C DIR .` does not sort: every sample is found, with its own caption."""
    files = [
        (f"{n}.{kind}", b"p" if kind == "jpg" else b"caption %d" % n) for n in range(30) for kind in ("jpg", "txt")
    ]
    random.Random(7).shuffle(files)
    found = read(tmp_path, *(member(name, data) for name, data in files))
    assert {sample.listed.url: sample.listed.captions for sample in found} == {
        f"x.tar/{n}.jpg": [f"caption {n}"] for n in range(30)
    }


def test_two_tars_in_one_file_do_not_mix(tmp_path: Path) -> None:
    """Both have a sample 0, neither is sorted: captions stay with their pictures."""
    first = member("0.txt", b"first") + member("1.jpg", b"1") + member("0.jpg", b"00") + member("1.txt", b"one") + END
    second = member("0.jpg", b"000") + member("2.txt", b"two") + member("2.jpg", b"2") + member("0.txt", b"second")
    found = read(tmp_path, first, second)
    assert [(sample.listed.captions, sample.size) for sample in found] == [
        (["first"], 2),
        (["one"], 1),
        (["second"], 3),
        (["two"], 1),
    ]


def test_a_key_that_is_used_again_is_two_samples_or_none(tmp_path: Path) -> None:
    """In one tar it is not known which caption is whose: what stands together is a sample, the rest is counted."""
    together = member("0.jpg", b"1") + member("0.txt", b"one") + member("9.jpg", b"9") + member("9.txt", b"nine")
    assert captions(read(tmp_path, together, member("0.jpg", b"2"), member("0.txt", b"two"))) == [
        ["one"],
        ["nine"],
        ["two"],
    ]
    apart = member("0.jpg", b"1") + member("1.jpg", b"1") + member("0.txt", b"?") + member("1.txt", b"one")
    found = read(tmp_path, apart, member("0.jpg", b"2"))
    assert [sample.listed.captions for sample in found if sample.listed.rejected is None] == [["one"]]
    assert len(found) == 4, "two pictures and a text of 0, and 1"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (b"\xef\xbb\xbfa fine caption", ["a fine caption"]),
        ("a fine caption".encode("utf-16"), "caption_not_utf8: a.txt is not UTF-8 but UTF-16 or UTF-32"),
        ("a fine caption".encode("utf-16-le"), "caption_not_utf8: a.txt is not UTF-8 but UTF-16 or UTF-32"),
        (b"caf\xe9", "caption_not_utf8: a.txt is not UTF-8: byte 0xe9 at 3"),
        (b"x" * 1_000_001, "bad_row: a.txt has 1000001 bytes, more than 1000000"),
        (b" \n", "empty_caption"),
        (b"...", "empty_caption"),
    ],
)
def test_the_encoding_of_a_text_is_seen(tmp_path: Path, text: bytes, wanted: list[str] | str) -> None:
    """A mark at the start is no content; other encodings are a reason and no mojibake."""
    (sample,) = read(tmp_path, member("a.jpg", b"p") + member("a.txt", text))
    if isinstance(wanted, list):
        assert sample.listed.captions == wanted
    else:
        assert sample.listed.rejected is not None and sample.listed.rejected.startswith(wanted)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"caption": float("nan")}, "empty_caption"),
        ({"caption": {"en": "a dog"}}, "caption_not_text"),
        ({"captions": [["a dog"]]}, "caption_not_text"),
        ({"captions": [{"raw": "a dog"}]}, "caption_not_text"),
        ({"caption": False}, "caption_not_text"),
        ({"caption": 7}, "caption_not_text"),
        ({"caption": "['a dog', 'a cat']"}, "caption_not_text"),
        ({"caption": "\ud800"}, "caption_not_utf8"),
        ({"caption": "!?"}, "empty_caption"),
        ({}, "empty_caption"),
        (b'{"caption": ', "bad_row: a.json is no JSON"),
        (b"[" * 50_000, "bad_row: a.json is no JSON: nested more than 64 levels"),
        (b'{"caption": "a dog", "n": ' + b"9" * 5000 + b"}", "bad_row: a.json is no JSON"),
        (b'["a dog"]', "bad_row: a.json holds no JSON object"),
        ('{"caption": "a dog"}'.encode("utf-16"), "caption_not_utf8: a.json is not UTF-8 but UTF-16"),
    ],
)
def test_a_json_without_a_caption_has_its_reason_and_the_text_beside_it_counts(
    tmp_path: Path, record: dict[str, object] | bytes, reason: str
) -> None:
    """Nothing becomes a caption by `str()`; with a .txt the sample is kept all the same."""
    data = record if isinstance(record, bytes) else json.dumps(record).encode()
    (sample,) = read(tmp_path, member("a.jpg", b"p") + member("a.json", data))
    assert sample.listed.captions == [] and (sample.listed.rejected or "").startswith(reason), sample.listed
    (sample,) = read(tmp_path, member("a.jpg", b"p") + member("a.json", data) + member("a.txt", b"a fine caption"))
    assert (sample.listed.captions, sample.listed.rejected) == (["a fine caption"], None)


def test_anything_but_a_plain_file_is_named_by_its_type(tmp_path: Path) -> None:
    """Links of a tool that found a file twice, holes, devices: a counted row each, and a folder or label is none."""
    kinds = {b"1": "hard link", b"2": "symbolic link", b"3": "character device", b"6": "FIFO", b"S": "sparse file"}
    found = read(
        tmp_path,
        member("label", b"", b"V") + header("folder", 0, b"5"),
        *(header(f"{number}.jpg", 0, kind) + member(f"{number}.txt", b"x") for number, kind in enumerate(kinds)),
        member("ok.jpg", b"p") + member("ok.txt", b"a caption"),
    )
    assert reasons(found) == [
        *(f"bad_row: {number}.jpg is a {name}, not a plain file" for number, name in enumerate(kinds.values())),
        None,
    ]


def test_names_of_strangers_are_shown_on_one_line_and_cut(tmp_path: Path) -> None:
    """An escape sequence, a newline, four thousand letters: in a reason they are harmless."""
    name = "\x1b[31m\n" + "n" * 3000
    long = member("@L", name.encode() + b".jpg", b"L") + header("x", 0, b"2")
    (sample,) = read(tmp_path, long)
    reason = sample.listed.rejected or ""
    assert "\x1b" not in reason and "\n" not in reason and len(reason) < 200 and "symbolic link" in reason


def test_from_a_tar_of_the_disk_to_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole command: macOS's companions, an unsorted pair, a UTF-16 text; and errors that name the way out."""
    picture, tar = jpeg(halves(60, 40)), tmp_path / "mine.tar"
    tar.write_bytes(
        member("./b.txt", b"\xef\xbb\xbfthe second") + member("./._b.jpg", APPLE_DOUBLE) + member("./a.jpg", picture)
        + member("./b.jpg", picture) + member("./a.txt", b"the first") + member("./c.jpg", picture)
        + member("./c.txt", "the third".encode("utf-16")) + END
    )  # fmt: skip
    out = ["--out", str(tmp_path / "out"), "--image-size", "64", "--processes", "1"]
    assert main(["import", str(tar), *out]) == 0
    stored = samples(tmp_path / "out")
    assert {row: meta["captions"] for row, (_, meta) in stored.items()} == {0: ["the second"], 1: ["the first"]}
    assert failures(tmp_path / "out") == {2: "caption_not_utf8"}

    packed, folders = tmp_path / "packed.tar", tmp_path / "folders.tar"
    packed.write_bytes(gzip.compress(tar.read_bytes()))
    folders.write_bytes(header("a/", 0, b"5") + header("a/b/", 0, b"5") + END)
    for path, message in ((packed, "gzip: `gunzip` makes"), (folders, "the list has no rows")):
        assert main(["import", str(path), "--out", str(tmp_path / path.stem), "--processes", "1"]) == 2
        assert message in capsys.readouterr().err
