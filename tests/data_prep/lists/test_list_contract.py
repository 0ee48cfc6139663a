"""From a source's published files to what training reads: list, download or pack, verify, and the pipeline's reader."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.cli import main
from pipeline.data.corpus.manifest import read_manifest
from pipeline.data.corpus.reader import ShardReader
from tests.support.data_prep_runs import failures
from tests.support.image_server import ImageServer, Reply

PICTURES = Path(__file__).parents[3] / "demo" / "assets" / "pictures.zip"
CAPTIONS = ["medal &amp;amp; ribbon", "&quot;first&quot; ☕", "<PERSON> at sea", "", "gone", "third"]
READ = {0: ["medal & ribbon"], 1: ['"first" ☕'], 2: ["<PERSON> at sea"], 5: ["third"]}
SIZES = ("--image-size", "64", "--shard-size", "4", "--processes", "1", "--min-yield", "0")


def pictures(number: int) -> list[bytes]:
    """Real ones: the first of those that ship with the demo."""
    with zipfile.ZipFile(PICTURES) as archive:
        return [archive.read(name) for name in archive.namelist()[:number]]


def as_the_pipeline_reads(folder: Path) -> dict[str, tuple[list[str], bytes]]:
    """Captions and image of each sample by key."""
    manifest, reader = read_manifest(folder), ShardReader()
    read = [reader.read(manifest.sample(index)) for index in range(manifest.num_samples)]
    reader.close()
    return {sample.name: (list(sample.captions), sample.jpg) for sample in read}


@pytest.mark.slow
def test_a_published_list_becomes_what_training_reads(tmp_path: Path) -> None:
    """SBU's two text files, six rows: each key's captions and picture are those of its row; the rest is counted."""
    stored = pictures(len(CAPTIONS))
    with ImageServer() as server:
        for row, data in enumerate(stored):
            server.add(f"/{row}.jpg", Reply(data) if row != 4 else Reply(status=404))
        urls, captions = tmp_path / "urls.txt", tmp_path / "captions.txt"
        urls.write_text("".join(server.url(f"/{row}.jpg") + "\r\n" for row in range(len(CAPTIONS))))
        captions.write_text("\n".join(CAPTIONS) + "\n", encoding="utf-8-sig")
        listed, out = tmp_path / "list.parquet", tmp_path / "out"
        assert main(["list", "sbu", str(captions), str(urls), "--out", str(listed)]) == 0
        command = ["download", "--urls", str(listed), "--out", str(out), *SIZES, "--allow-private-addresses"]
        assert main([*command, "--retries", "0"]) == 0
    assert main(["verify", str(out), "--processes", "1"]) == 0
    read = as_the_pipeline_reads(out)
    assert {int(key.removeprefix("sbu-")): captions for key, (captions, _) in read.items()} == READ
    for key, (_, jpg) in read.items():
        original = Image.open(io.BytesIO(stored[int(key[-1])])).convert("RGB").resize((16, 16))
        kept = Image.open(io.BytesIO(jpg)).resize((16, 16))
        assert np.abs(np.asarray(original, float) - np.asarray(kept, float)).mean() < 6, key  # JPEG twice, resized
    assert failures(out) == {3: "empty_caption", 4: "http_404"}


def test_coco_out_of_its_zip_becomes_what_training_reads(tmp_path: Path) -> None:
    """Karpathy's file and a zip of images: one sample an image with all its captions, its id and its licence."""
    entries = [
        {
            "filepath": "val2014",
            "filename": f"{number}.jpg",
            "cocoid": 100 + number,
            "split": "restval" if number % 2 else "train",
            "sentences": [{"raw": f"picture {number}"}, {"raw": f"again {number}"}],
        }
        for number in range(5)
    ]
    entries.append(entries[0] | {"cocoid": 99, "split": "test"})
    own = {
        "images": [{"id": 101, "file_name": "1.jpg", "license": 4, "coco_url": "http://images.example/1.jpg"}],
        "licenses": [{"id": 4, "url": "http://creativecommons.org/licenses/by/2.0/"}],
    }
    (tmp_path / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))
    (tmp_path / "captions_val2014.json").write_text(json.dumps(own))
    with zipfile.ZipFile(tmp_path / "val2014.zip", "w") as archive:
        for number, data in enumerate(pictures(4)):
            archive.writestr(f"val2014/{number}.jpg", data)
    listed, out = tmp_path / "coco.parquet", tmp_path / "out"
    files = [str(tmp_path / name) for name in ("dataset_coco.json", "captions_val2014.json")]
    assert main(["list", "coco", *files, "--out", str(listed)]) == 0
    images = ["--images", str(tmp_path / "val2014.zip")]
    assert main(["pack", "--annotations", str(listed), *images, "--out", str(out), *SIZES]) == 0
    assert main(["verify", str(out), "--processes", "1"]) == 0
    read = as_the_pipeline_reads(out)
    assert {key: captions for key, (captions, _) in read.items()} == {
        f"coco-{number:09d}": [f"picture {number}", f"again {number}"] for number in range(4)
    }
    assert failures(out) == {4: "missing_file"}
    manifest = pq.read_table(out / "manifest.parquet")
    listed_by = json.loads(manifest["arguments"][0].as_py())["listed"]["coco.parquet"]
    assert (listed_by["source"], listed_by["rows"], listed_by["left_out"]) == ("coco", 5, {"other_split": 1})
    (tar,) = (out / "shards").glob("coco-00000.tar")
    assert b'"id": "101"' in tar.read_bytes() and b"licenses/by/2.0" in tar.read_bytes()


def test_a_list_that_fits_the_other_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A list of paths cannot be downloaded, one of URLs cannot be packed: exit 2, and the right command."""
    entry = {"filepath": "v", "filename": "1.jpg", "cocoid": 1, "split": "train", "sentences": [{"raw": "x"}]}
    (tmp_path / "k.json").write_text(json.dumps({"images": [entry]}))
    (tmp_path / "cc.tsv").write_text("a\thttp://a.example/1.jpg\n")
    local, web = tmp_path / "local.parquet", tmp_path / "web.parquet"
    assert main(["list", "coco", str(tmp_path / "k.json"), "--out", str(local)]) == 0
    assert main(["list", "cc3m", str(tmp_path / "cc.tsv"), "--out", str(web)]) == 0
    assert main(["download", "--urls", str(local), "--out", str(tmp_path / "a")]) == 2
    assert "no row of local.parquet has a URL" in (error := capsys.readouterr().err) and "pack --ann" in error
    flags = ["--images", str(tmp_path), "--out", str(tmp_path / "b")]
    assert main(["pack", "--annotations", str(web), *flags]) == 2
    assert "no row of web.parquet has a path" in (error := capsys.readouterr().err) and "download --urls" in error
