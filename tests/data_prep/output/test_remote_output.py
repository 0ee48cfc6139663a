"""`--out s3://...`: the same bytes as on a disk, resumed, verified and read where they are; a real S3 server."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from data_prep.cli import main
from data_prep.output.storage import is_remote, storage_location
from pipeline.data.corpus.manifest import read_manifest
from pipeline.data.corpus.reader import ShardReader
from tests.support.hostile_images import halves, jpeg
from tests.support.image_server import ImageServer, Reply
from tests.support.s3_server import s3_server


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight entries, in shards of three: the last shard is short, and one image is missing."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(8):
        if number != 4:
            (root / f"{number}.jpg").write_bytes(jpeg(halves(90 + number, 70)))
    entries = [{"image": f"{number}.jpg", "caption": f"picture {number}"} for number in range(8)]
    (root / "list.json").write_text(json.dumps(entries))
    return root


def pack(pictures: Path, out: object, *more: object) -> list[str]:
    lists = ("--annotations", pictures / "list.json", "--images", pictures, "--out", out)
    sizes = ("--image-size", 64, "--shard-size", 3, "--processes", 1, "--source", "made")
    return [str(word) for word in ("pack", *lists, *sizes, *more)]


def content(where: object, pattern: str) -> dict[str, bytes]:
    """Name and bytes of files, by what fsspec itself lists."""
    store, root = fsspec.core.url_to_fs(str(where))
    store.invalidate_cache()
    return {path.rpartition("/")[2]: store.cat_file(path) for path in store.glob(f"{root}/{pattern}")}


@pytest.fixture(scope="module")
def packed(bucket: str, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The URI of a packed corpus, and its work folder."""
    work = tmp_path_factory.mktemp("work")
    assert main(pack(pictures, f"{bucket}/corpus/made", "--work", work)) == 0
    return f"{bucket}/corpus/made", work


def test_a_store_gets_the_bytes_that_a_disk_gets(packed: tuple[str, Path], pictures: Path, tmp_path: Path) -> None:
    """Tars, failures and job are in the store; only work in progress stays on this machine."""
    address, work = packed
    assert main(pack(pictures, tmp_path / "local")) == 0
    for pattern in ("shards/*.tar", "failures/*", "job.json"):
        assert content(address, pattern) == content(tmp_path / "local", pattern) != {}
    for name in ("manifest.parquet", "datasheet.json", "report.json"):
        assert list(content(address, name)) == [name]
    recorded = json.loads(content(address, "datasheet.json")["datasheet.json"])
    assert (recorded["listed"], recorded["kept"], recorded["failed"]) == (8, 7, {"missing_file": 1})
    assert not [path for path in work.rglob("*") if ".tar" in path.name or ".jsonl" in path.name]


def test_training_reads_it_where_it_is(packed: tuple[str, Path]) -> None:
    """With the reader that pipeline has: by URL and by ranges."""
    manifest = read_manifest(packed[0])
    reader = ShardReader()
    samples = [reader.read(manifest.sample(index)) for index in range(manifest.num_samples)]
    reader.close()
    assert [sample.captions for sample in samples] == [[f"picture {number}"] for number in (0, 1, 2, 3, 5, 6, 7)]
    assert Image.open(io.BytesIO(samples[4].jpg)).size == (round(95 * 64 / 70), 64)


def test_resume_asks_the_store(packed: tuple[str, Path], pictures: Path, tmp_path: Path) -> None:
    """A shard whose record is gone is made again, from a fresh work folder too; the others are left as they are."""
    address, _ = packed
    store = fsspec.filesystem("s3", use_listings_cache=False)
    before = {name: store.info(f"{address}/shards/{name}")["LastModified"] for name in content(address, "shards/*.tar")}
    tars = content(address, "shards/*.tar")
    store.rm(f"{address}/shards/made-00001.json")
    store.pipe_file(f"{address}/shards/made-00001.tar", b"half a shard")
    assert main(pack(pictures, address, "--work", tmp_path / "fresh")) == 0
    assert content(address, "shards/*.tar") == tars
    after = {name: store.info(f"{address}/shards/{name}")["LastModified"] for name in tars}
    assert [name for name in tars if after[name] == before[name]] == ["made-00000.tar", "made-00002.tar"]


def test_verify_status_and_report_read_the_store(
    packed: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flipped byte in an object is named, and the manifest goes out of the way until it is fixed."""
    address, _ = packed
    assert main(["report", address, "--out", str(tmp_path / "page.html"), "--samples", "3"]) == 0
    assert (tmp_path / "page.html").read_text().count("data:image/jpeg") == 3
    assert main(["status", address]) == 0
    assert "3 of 3 shards" in capsys.readouterr().out
    store = fsspec.filesystem("s3", use_listings_cache=False)
    tar = f"{address}/shards/made-00001.tar"
    good = store.cat_file(tar)
    store.pipe_file(tar, good[:700] + bytes([good[700] ^ 1]) + good[701:])
    assert main(["verify", address, "--processes", "1"]) == 1
    printed = capsys.readouterr().out
    assert "wrong: made-00001.tar: made-000000003: image bytes differ from their sha256" in printed
    assert not content(address, "manifest.parquet") and content(address, "manifest.parquet.withdrawn")


def test_parts_of_a_download_meet_in_the_store(bucket: str, tmp_path: Path) -> None:
    """Two parts with their own work folders, as two machines have: one corpus, every row accounted for."""
    address = f"{bucket}/web"
    with ImageServer() as server:
        server.serve_anything(lambda path: Reply(status=404) if "3" in path else Reply(jpeg()))
        urls = tmp_path / "web.tsv"
        urls.write_text("url\tcaption\n" + "".join(f"{server.url(f'/{row}.jpg')}\ta picture\n" for row in range(6)))
        flags: tuple[object, ...] = (
            "--image-size",
            64,
            "--shard-size",
            3,
            "--processes",
            1,
            "--retries",
            0,
            "--allow-private-addresses",
        )
        (tmp_path / "domains.txt").write_text("bad.example\n127.0.0.9\n")
        with open(urls, "a") as more:
            more.write("http://www.bad.example/x.jpg\tleft out\n")
        left_out = ("--exclude-domains", tmp_path / "domains.txt")
        for part in ("1/2", "2/2"):
            work = ("--work", tmp_path / f"work{part[0]}", "--part", part)
            assert (
                main([str(word) for word in ("download", "--urls", urls, "--out", address, *flags, *left_out, *work)])
                == 0
            )
    assert main(["verify", address, "--processes", "1"]) == 0
    recorded = json.loads(content(address, "datasheet.json")["datasheet.json"])
    failed = {"excluded_domain": 1, "http_404": 1}
    assert (recorded["listed"], recorded["kept"], recorded["failed"], recorded["left"]) == (7, 5, failed, 0)
    assert sorted(content(address, "shards/*.tar")) == ["web-00000.tar", "web-00001.tar", "web-00002.tar"]
    assert content(address, "excluded/*") == {"domains.txt": b"127.0.0.9\nbad.example\n"}


def test_flags_that_do_not_go_together_are_refused(
    packed: tuple[str, Path], pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, work = packed
    for flags, message in (
        (pack(pictures, address), "is a URI, and work in progress needs a disk"),
        (pack(pictures, tmp_path / "o", "--work", tmp_path), "--work goes with a URI"),
        (pack(pictures, address + "2", "--work", work), f"is the work folder of {address}"),
        (pack(pictures, "memory://x", "--work", tmp_path), "is the memory of one process"),
        (["retry", address], "is a URI, and this command works on a disk only"),
        (pack(pictures, "nosuch://x/y", "--work", tmp_path), "nosuch://x/y cannot be opened"),
    ):
        assert main(flags) == 2
        assert message in capsys.readouterr().err


def test_a_file_uri_is_a_path() -> None:
    """So that it keeps all that a disk has: renames, locks."""
    assert storage_location("file:///data/a%20b") == Path("/data/a b") and not is_remote(
        storage_location("file:///data")
    )


def test_a_store_that_does_not_answer_is_reported(
    bucket: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server listens at port 9."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    try:
        assert main(["verify", "s3://bucket/x"]) == 2
        assert "s3://bucket/x cannot be reached" in capsys.readouterr().err
    finally:
        fsspec.get_filesystem_class("s3").clear_instance_cache()
