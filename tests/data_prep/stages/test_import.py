"""Ready-made tars, written here as img2dataset and others write them: every sample is kept or a counted failure."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.cli import main
from data_prep.output.job import ImageSettings
from data_prep.shards.image_encoding import keep_or_encode
from data_prep.stages.import_tars import tars_source
from data_prep.stages.tar_samples import read_tar
from samples.image import ImageRefused
from tests.support.data_prep_runs import failures, samples
from tests.support.hostile_images import RED, halves, jpeg, rotated_jpeg, saved

SIZES = ("--image-size", "64", "--shard-size", "4", "--processes", "1")
SMALL = jpeg(halves(90, 60), quality=70)


def write_tar(path: Path, members: list[tuple[str, bytes]], *, style: int = tarfile.PAX_FORMAT) -> Path:
    """As webdataset's writer does: PAX, with times of a fraction, so that a separate header precedes each member."""
    with tarfile.open(path, "w", format=style) as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1700000000.25
            tar.addfile(member, io.BytesIO(data))
    return path


def record(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def two_tars(folder: Path) -> list[Path]:
    """Eleven samples, seven of them good; a name longer than a header holds makes a separate member."""
    first = [
        ("000000000.jpg", SMALL),
        ("000000000.txt", b"a flag"),
        ("000000000.json", record(caption="a flag", url="http://a.example/0.jpg", key="000000000", exif=None)),
        ("000000001.png", saved(halves(200, 120), "PNG")),
        ("000000001.txt", "ein Schild ☕".encode()),
        ("000000002.jpg", jpeg()[:700]),
        ("000000002.txt", b"half a picture"),
        ("000000003.txt", b"no picture"),
        ("000000004.jpg", SMALL),
        ("000000005.jpg", SMALL),
        ("000000005.json", record(captions=["one", " ", "two"], id=522418, license="CC BY 4.0")),
    ]
    second = [
        ("deep/er/" + "n" * 120 + ".JPEG", SMALL),
        ("deep/er/" + "n" * 120 + ".txt", b"in a folder"),
        ("deep/x.webp", saved(halves(50, 40), "WEBP", lossless=True)),
        ("deep/x.json", record(caption=["a list", "of two"])),
        ("y.jpg", SMALL),
        ("y.json", b'{"caption": '),
        ("y.txt", b"the text will do"),
        ("z.jpg", SMALL),
        ("z.png", saved(halves(), "PNG")),
        ("z.txt", b"two pictures"),
        ("latin.jpg", SMALL),
        ("latin.txt", b"caf\xe9"),
        ("turned.jpg", rotated_jpeg(6)),
        ("turned.txt", b"turned"),
    ]
    return [write_tar(folder / "cc3m-train-0000.tar", first), write_tar(folder / "cc3m-train-0001.tar", second)]


def test_every_sample_is_kept_or_counted(tmp_path: Path) -> None:
    """Captions from JSON or text, ids and licences, nested and long names; and the reasons of those that failed."""
    tars = two_tars(tmp_path)
    command = ["import", *map(str, tars), "--out", str(tmp_path / "out"), *SIZES, "--processes", "2"]
    assert main(command) == 0
    stored = samples(tmp_path / "out")
    assert {row: meta["captions"] for row, (_, meta) in stored.items()} == {
        0: ["a flag"],
        1: ["ein Schild ☕"],
        5: ["one", "two"],
        6: ["in a folder"],
        7: ["a list", "of two"],
        8: ["the text will do"],
        11: ["turned"],
    }
    assert failures(tmp_path / "out") == {
        2: "truncated_image",
        3: "bad_row",
        4: "empty_caption",
        9: "bad_row",
        10: "caption_not_utf8",
    }
    assert (stored[0][1]["url"], stored[0][1]["id"]) == ("http://a.example/0.jpg", "000000000")
    assert (stored[1][1]["url"], stored[1][1]["id"]) == ("cc3m-train-0000.tar/000000001.png", "000000001")
    assert (stored[5][1]["id"], stored[5][1]["licence"]) == ("522418", "CC BY 4.0")
    assert stored[7][1]["id"] == "deep/x" and stored[0][1]["source"] == "cc3m_train"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["listed"], report["kept"], report["left"]) == (12, 7, 0)

    # restartable: a shard that is gone is made again, to the same bytes, without another look at the rest
    lost = tmp_path / "out" / "shards" / "cc3m_train-00001.tar"
    before = lost.read_bytes()
    lost.unlink()
    assert main(command) == 0
    assert lost.read_bytes() == before


def test_a_jpeg_that_is_as_it_should_be_keeps_its_bytes() -> None:
    """A second encoding would only lose quality; what is too large, gray, turned or no JPEG is encoded as usual."""
    settings = ImageSettings(image_size=64)
    kept = keep_or_encode(SMALL, settings)
    assert kept.jpeg == SMALL and (kept.width, kept.height) == (90, 60) == (kept.original_width, kept.original_height)
    changed = {
        "large": jpeg(halves(200, 120)),
        "gray": jpeg(halves(90, 60, left=10, right=200, mode="L")),
        "turned": rotated_jpeg(6, 90, 60),
        "png": saved(halves(90, 60), "PNG"),
        "cmyk": jpeg(halves(90, 60).convert("CMYK")),
    }
    for name, data in changed.items():
        encoded = keep_or_encode(data, settings)
        image = Image.open(io.BytesIO(encoded.jpeg))
        assert encoded.jpeg != data and (image.format, image.mode) == ("JPEG", "RGB"), name
        assert min(image.size) <= 64 and image.size == (encoded.width, encoded.height), name
    turned = Image.open(io.BytesIO(keep_or_encode(changed["turned"], settings).jpeg))
    assert turned.size == (90, 60)
    assert np.abs(np.asarray(turned, dtype=float)[30, 20] - RED).max() < 8  # JPEG: some values of a flat colour
    with pytest.raises(ImageRefused, match="truncated_image"):
        keep_or_encode(SMALL[: len(SMALL) * 4 // 5], settings)


DAMAGE = {
    "cut inside a member": (lambda data: data[: data.index(b"2.jpg") + 700], "truncated"),
    "cut between members": (lambda data: data.rstrip(b"\0") + bytes(-len(data.rstrip(b"\0")) % 512), "no end mark"),
    "a broken header": (lambda data: data[:1536] + b"x" * 512 + data[2048:], "broken header"),
    "not a tar": (lambda data: b"<html>" * 1000, "not a readable tar"),
    "nothing": (lambda data: b"", "not a readable tar"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_broken_tar_is_refused_by_name(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wherever it is broken: exit 2, the tar and the damage in the message, no job started."""
    members = [(f"{number}.{kind}", data) for number in range(3) for kind, data in (("jpg", SMALL), ("txt", b"a"))]
    damage, message = DAMAGE[name]
    tar = write_tar(tmp_path / "x.tar", members, style=tarfile.USTAR_FORMAT)
    data = tar.read_bytes()
    if name == "a broken header":
        data = data.replace(b"1.txt", b"1\xff\xff\xff\xff", 1)  # its checksum is wrong now
        damage = bytes
    tar.write_bytes(damage(data))
    assert main(["import", str(tar), "--out", str(tmp_path / "out"), *SIZES]) == 2
    error = capsys.readouterr().err
    assert f"error: {tar}" in error and message in error and "--keep-going" in error
    assert not (tmp_path / "out" / "job.json").exists()


def test_keep_going_takes_what_comes_before_the_damage(tmp_path: Path) -> None:
    """Two whole samples, then a cut: the third row stands for the damage; the next tar is read as usual."""
    members = [(f"{number}.{kind}", data) for number in range(3) for kind, data in (("jpg", SMALL), ("txt", b"a"))]
    cut, whole = (write_tar(tmp_path / name, members, style=tarfile.USTAR_FORMAT) for name in ("cut.tar", "whole.tar"))
    data = cut.read_bytes()
    cut.write_bytes(data[: data.index(b"2.jpg") + 700])
    flags = ["--out", str(tmp_path / "out"), *SIZES, "--keep-going"]
    assert main(["import", str(cut), str(whole), *flags]) == 0
    assert sorted(samples(tmp_path / "out")) == [0, 1, 3, 4, 5]
    assert failures(tmp_path / "out") == {2: "broken_tar"}


def test_links_and_folders_in_a_tar(tmp_path: Path) -> None:
    """A folder is no sample, and a link never leads out of the tar: it is a counted row."""
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as tar:
        folder = tarfile.TarInfo("deep")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        link = tarfile.TarInfo("deep/a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (sample,), damage = read_tar(path)
    assert sample.listed.rejected == "bad_row: deep/a.jpg is a symbolic link, not a plain file" and damage is None


@pytest.mark.parametrize(
    ("name", "source"), [("cc3m-train-0000.tar", "cc3m_train"), ("00000.tar", "images"), ("sbu.tar", "sbu")]
)
def test_the_first_tar_names_the_source(name: str, source: str) -> None:
    assert tars_source(Path(name)) == source
