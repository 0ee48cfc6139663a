"""`data_prep download` from a hostile server: every listed row becomes a right sample or a counted failure."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_prep.shards.manifest import read_manifest
from tests.support import hostile_images as hostile
from tests.support.data_prep_runs import failures, run, samples
from tests.support.hostile_images import BLUE, RED, WHITE, halves, jpeg, saved
from tests.support.image_server import ImageServer, Reply

GRAY_64, GRAY_192 = (64, 64, 64), (192, 192, 192)
REDIRECT = {"Location": "/loop"}
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
CONSENT = Reply(status=302, headers={"Location": "/consent.jpg", "Set-Cookie": "seen=1; Path=/"})
EXCLUDED, TO_EXCLUDED = "127.0.0.9", {"Location": "http://127.0.0.9/x.jpg"}
KNOWN = jpeg(halves(77, 66))


@dataclass(frozen=True)
class Case:
    """One listed row: how the server answers, and what must become of it."""

    name: str
    replies: tuple[Reply, ...]
    reason: str | None = None
    left: tuple[int, int, int] = RED
    right: tuple[int, int, int] = BLUE
    size: tuple[int, int] = (107, 64)
    caption: bytes = b"a flag"
    login: str = ""
    """`user:password@` of the listed URL."""
    requests: int | None = None
    """How often the server must have been asked."""


GOOD = [
    Case("good.jpg", (Reply(jpeg()),), requests=1),
    Case("good.png", (Reply(saved(halves(), "PNG")),)),
    Case("good.webp", (Reply(saved(halves(), "WEBP", lossless=True)),)),
    Case("animated.gif", (Reply(hostile.animated("GIF")),)),
    Case("animated.webp", (Reply(hostile.animated("WEBP")),)),
    Case("alpha.png", (Reply(hostile.transparent_png()),), right=WHITE),
    Case("cmyk.jpg", (Reply(jpeg(halves().convert("CMYK"))),)),
    Case("sixteen_bit.png", (Reply(hostile.sixteen_bit_png()),), left=GRAY_64, right=GRAY_192),
    Case("sixteen_bit_rgb.png", (Reply(hostile.sixteen_bit_rgb_png()),)),
    Case("gray.jpg", (Reply(jpeg(halves(left=64, right=192, mode="L"))),), left=GRAY_64, right=GRAY_192),
    Case("rotated.jpg", (Reply(hostile.rotated_jpeg(6)),)),
    Case("png_called.jpg", (Reply(saved(halves(), "PNG"), "image/jpeg"),)),
    Case("jpg_called_text.php?id=1", (Reply(jpeg(), "text/plain"),)),
    Case("small.jpg", (Reply(jpeg(halves(40, 30))),), size=(40, 30)),
    Case("a space and é.jpg", (Reply(jpeg()),)),
    Case("moved.jpg", (Reply(status=302, headers={"Location": "/good.png"}),)),
    Case("flaky.jpg", (Reply(b"busy", "text/plain", 500), Reply(jpeg())), requests=2),
    Case("busy.jpg", (Reply(status=503, headers={"Retry-After": "1"}), Reply(jpeg())), requests=2),
    Case("for_another_robot.jpg", (Reply(jpeg(), headers={"X-Robots-Tag": "otherbot: noai"}),)),
    Case("packed.jpg", (Reply(gzip.compress(jpeg()), headers={"Content-Encoding": "gzip"}),), requests=1),
    Case("hinted.jpg", (Reply(raw=HINTS + jpeg()),), requests=1),
    Case("headed.jpg", (Reply(jpeg(), headers=dict.fromkeys((f"X-Note-{n}" for n in range(150)), "v")),), requests=1),
    Case("consent.jpg", (CONSENT, Reply(jpeg(), required=("Cookie", "seen=1"))), requests=2),
    Case("locked.jpg", (Reply(jpeg(), required=("Authorization", "Basic YTpobyBoYW5k")),), login="a:ho%20hand@"),
    Case("quoted.jpg", (Reply(jpeg()),), caption=b'"an unbalanced quote'),
    Case("accented.jpg", (Reply(jpeg()),), caption="  un café ☕ ".encode()),
]
BAD = [
    Case("gone.jpg", (Reply(b"gone", "text/html", 404),), "http_404", requests=1),
    Case("forbidden.jpg", (Reply(status=403),), "http_403", requests=1),
    Case("always_500.jpg", (Reply(status=500),), "http_500", requests=2),
    Case("silent.jpg", (Reply(jpeg(), delay_s=4),), "timed_out", requests=2),
    Case("dripping.jpg", (Reply(jpeg(), drip_s=0.2),), "too_slow", requests=1),
    Case("page.jpg", (Reply(b"<!doctype html><p>Image removed</p>", "image/jpeg"),), "html_instead_of_image"),
    Case("truncated.jpg", (Reply(jpeg()[:900]),), "truncated_image"),
    Case("cut_off.jpg", (Reply(jpeg()[:900], announced=len(jpeg())),), "incomplete_body", requests=2),
    Case("packed_otherwise.jpg", (Reply(jpeg(), headers={"Content-Encoding": "br"}),), "unsupported_encoding"),
    Case("locked_otherwise.jpg", (Reply(status=401),), "http_401", login="a:ho%20hand@"),
    Case("zero.jpg", (Reply(b""),), "empty_body"),
    Case("words.jpg", (Reply(b"not an image at all"),), "not_an_image"),
    Case("drawing.svg", (Reply(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/svg+xml"),), "unsupported_format"),
    Case("enormous.png", (Reply(hostile.enormous_png()),), "too_many_pixels"),
    Case("heavy.jpg", (Reply(jpeg() + bytes(2_000_000)),), "body_too_large", requests=1),
    Case("endless.jpg", (Reply(jpeg() + bytes(2_000_000), announced=-1),), "body_too_large", requests=1),
    Case("noai.jpg", (Reply(jpeg(), headers={"X-Robots-Tag": "noai, noimageai"}),), "opted_out", requests=1),
    Case("loop", (Reply(status=302, headers=REDIRECT),), "bad_redirect"),
    Case("to_an_excluded_domain.jpg", (Reply(status=302, headers=TO_EXCLUDED),), "excluded_domain", requests=1),
    Case("known.jpg", (Reply(KNOWN),), "excluded_hash", requests=1),
    Case("to_a_file.jpg", (Reply(status=302, headers={"Location": "file:///etc/passwd"}),), "bad_redirect"),
    Case("empty_caption.jpg", (Reply(jpeg()),), "empty_caption", caption=b"  ", requests=0),
    Case("latin1_caption.jpg", (Reply(jpeg()),), "caption_not_utf8", caption=b"caf\xe9", requests=0),
]
NOT_ASKED = [
    (b"file:///etc/passwd\ta file", "unsupported_scheme"),
    (b"data:image/png;base64,AAAA\tdata", "unsupported_scheme"),
    (b"no address\twords", "bad_url"),
    (f"http://{EXCLUDED}/x.jpg\texcluded".encode(), "excluded_domain"),
    (b"http://127.0.0.1/x.jpg\ttoo\tmany columns", "bad_row"),
]
CASES = GOOD + BAD
FLAGS = (
    "--allow-private-addresses",
    *("--image-size", 64, "--shard-size", 16, "--processes", 2, "--threads", 16, "--max-image-bytes", 1_000_000),
    *("--timeout", 1.5, "--image-timeout", 4, "--retries", 1, "--retry-pause", 0.3),
)


@dataclass(frozen=True)
class Run:
    folder: Path
    urls: Path
    server: ImageServer
    process: subprocess.CompletedProcess[str]
    rows: dict[str, int]
    flags: tuple[object, ...]


@pytest.fixture(scope="module")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """One download of everything above. The server is also the proxy for all hosts, so it sees all requests."""
    root = tmp_path_factory.mktemp("hostile")
    with ImageServer() as server, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        lines = []
        for case in CASES:
            server.add("/" + case.name.replace(" ", "%20").replace("é", "%C3%A9"), *case.replies)
            url = server.url(f"/{case.name}").replace("//", f"//{case.login}", 1)
            lines.append(url.encode() + b"\t" + case.caption)
        lines += [line for line, _ in NOT_ASKED]
        lines.append(f"http://127.0.0.1:{closed.getsockname()[1]}/x.jpg\tnobody listens".encode())
        urls = root / "hostile.tsv"
        urls.write_bytes(b"url\tcaption\n" + b"\n".join(lines) + b"\n")
        (root / "domains.txt").write_text(f"# not these\n{EXCLUDED}\nexample.com\n")
        (root / "hashes.txt").write_text(hashlib.sha256(KNOWN).hexdigest() + "  known.jpg\n")
        flags = (*FLAGS, "--exclude-domains", root / "domains.txt", "--exclude-hashes", root / "hashes.txt")
        proxy = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"), server.address)
        own = {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1", "NO_ALBUMENTATIONS_UPDATE": ""}
        raw = root / "out" / ".work" / "raw"
        raw.mkdir(parents=True)
        for foreign in (root / "out" / "manifest.json", raw / "manifest.json", raw / "notes_stats.json"):
            foreign.write_text("{}")
        process = run("download", "--urls", urls, "--out", root / "out", *flags, environment={**proxy, **own})
        yield Run(root / "out", urls, server, process, {case.name: row for row, case in enumerate(CASES)}, flags)


def test_the_run_ends_well(hostile_run: Run) -> None:
    assert hostile_run.process.returncode == 0, hostile_run.process.stderr + hostile_run.process.stdout
    assert "0 problems" in hostile_run.process.stdout


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_a_good_image_has_its_colours_size_and_orientation(hostile_run: Run, case: Case) -> None:
    stored = samples(hostile_run.folder)
    row = hostile_run.rows[case.name]
    assert row in stored, failures(hostile_run.folder).get(row)
    sample, meta = stored[row]
    image = Image.open(io.BytesIO(sample.image))
    assert (image.format, image.mode, image.size) == ("JPEG", "RGB", case.size)
    pixels = np.asarray(image, dtype=float)
    half = image.width // 2
    assert np.abs(pixels[4:-4, 4 : half - 4].mean((0, 1)) - case.left).max() < 6, case.name
    assert np.abs(pixels[4:-4, half + 4 : -4].mean((0, 1)) - case.right).max() < 6, case.name
    assert meta["captions"] == [case.caption.decode().strip()]
    assert meta["sha256"] == hashlib.sha256(sample.image).hexdigest()
    assert (meta["width"], meta["height"]) == case.size
    assert (meta["original_width"], meta["original_height"]) == ((40, 30) if case.name == "small.jpg" else (200, 120))
    assert meta["key"] == sample.key == f"hostile-{row:09d}"
    assert meta["source"] == "hostile" and meta["url"].startswith(hostile_run.server.address)


def test_every_bad_row_is_counted_with_its_reason(hostile_run: Run) -> None:
    """Row by row what failed and why, and nothing else failed."""
    expected = {hostile_run.rows[case.name]: case.reason for case in BAD}
    expected |= {len(CASES) + i: reason for i, (_, reason) in enumerate(NOT_ASKED)}
    expected[len(CASES) + len(NOT_ASKED)] = "connection_refused"
    assert failures(hostile_run.folder) == expected


def test_report_and_manifest_account_for_every_row(hostile_run: Run) -> None:
    """listed = kept + failed in report.json, in each shard of the manifest, and on the screen."""
    num_rows = len(CASES) + len(NOT_ASKED) + 1
    report = json.loads((hostile_run.folder / "report.json").read_text())
    assert report["listed"] == num_rows == report["kept"] + sum(report["failed"].values())
    assert (report["kept"], report["complete"], report["left"]) == (len(GOOD), True, 0)
    manifest = read_manifest(hostile_run.folder / "manifest.parquet")
    counted: Counter[str] = Counter()
    for shard in manifest:
        failed = {failure["reason"]: failure["count"] for failure in shard["failures"]}
        assert shard["listed"] == shard["num_samples"] + sum(failed.values())
        assert shard["yield"] == shard["num_samples"] / shard["listed"]
        assert hashlib.sha256((hostile_run.folder / shard["path"]).read_bytes()).hexdigest() == shard["sha256"]
        assert json.loads(shard["tools"])["img2dataset"] and json.loads(shard["arguments"])["image_size"] == 64
        counted.update(failed)
    assert [shard["listed"] for shard in manifest] == [*[16] * (num_rows // 16), num_rows % 16]
    assert dict(counted) == report["failed"]
    assert f"kept    {len(GOOD):>10}" in hostile_run.process.stdout


def test_servers_are_asked_as_often_as_stated(hostile_run: Run) -> None:
    """A pause and a second request after 500, 503 and silence; none after 404, an opt-out or a rejected caption."""
    asked = {case.name: hostile_run.server.hits["/" + case.name] for case in CASES if case.requests is not None}
    assert asked == {case.name: case.requests for case in CASES if case.requests is not None}


def test_a_password_of_the_list_is_kept_where_retries_need_it_and_nowhere_else(hostile_run: Run) -> None:
    """In `.work/rows.parquet`, which only its owner can read: not in samples, failures, reports or logs."""
    rows = hostile_run.folder / ".work" / "rows.parquet"
    assert rows.stat().st_mode & 0o077 == 0
    assert set(pq.read_table(rows)["login"].to_pylist()) == {None, "a:ho hand"}
    for path in hostile_run.folder.rglob("*"):
        if path.is_file() and path != rows:
            assert not re.search(rb"ho.{0,2}20?hand|ho hand|YTpobyBoYW5k", path.read_bytes()), path
    assert "hand" not in hostile_run.process.stdout + hostile_run.process.stderr


def test_nothing_is_sent_beyond_the_listed_hosts(hostile_run: Run) -> None:
    """Even with albumentations' update check switched on in the environment, no request goes to the package index."""
    assert hostile_run.server.foreign == []


def test_the_work_folder_is_left_empty_of_originals(hostile_run: Run) -> None:
    left = sorted(path.name for path in (hostile_run.folder / ".work" / "raw").iterdir())
    assert left == ["manifest.json", "notes_stats.json"], "foreign files, put there before the start, and no others"


def test_the_same_command_again_does_nothing(hostile_run: Run) -> None:
    """No request, the same shards to the byte and the second, the same answer."""
    tars = sorted((hostile_run.folder / "shards").iterdir())
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tars}
    hits = hostile_run.server.hits.total()
    again = run("download", "--urls", hostile_run.urls, "--out", hostile_run.folder, *hostile_run.flags)
    assert again.returncode == 0, again.stderr
    assert hostile_run.server.hits.total() == hits
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tars} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--shard-size", 8), "was started with --shard-size 16, now 8"),
        (("--image-size", 65), "was started with --image-size 64, now 65"),
        (("--source", "other"), "was started with --source hostile, now other"),
    ],
)
def test_another_job_in_the_same_folder_is_refused(
    hostile_run: Run, change: tuple[object, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from data_prep.cli import main

    flags = map(str, ("download", "--urls", hostile_run.urls, "--out", hostile_run.folder, *hostile_run.flags, *change))
    assert main(list(flags)) == 2
    error = capsys.readouterr().err
    assert message in error and "hint: use" in error


def test_other_exclusions_are_another_job(hostile_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Its shards were made before the domain was excluded, and would still hold its images."""
    from data_prep.cli import main

    command = ["download", "--urls", str(hostile_run.urls), "--out", str(hostile_run.folder), *map(str, FLAGS)]
    assert main(command) == 2
    assert "was started with another list (or other columns or exclusions)" in capsys.readouterr().err
    kept = hostile_run.folder / "excluded"
    assert (kept / "domains.txt").read_text() == f"{EXCLUDED}\nexample.com\n"
    assert (kept / "hashes.txt").read_text() == hashlib.sha256(KNOWN).hexdigest() + "\n"


def test_another_list_in_the_same_folder_is_refused(
    hostile_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from data_prep.cli import main

    longer = tmp_path / "hostile.tsv"
    longer.write_bytes(hostile_run.urls.read_bytes() + b"http://127.0.0.1/x.jpg\tone more\n")
    assert (
        main(["download", "--urls", str(longer), "--out", str(hostile_run.folder), *map(str, hostile_run.flags)]) == 2
    )
    assert "was started with another list" in capsys.readouterr().err
