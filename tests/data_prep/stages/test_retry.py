"""`data_prep retry`: only what may have passed is asked again, into separate shards, and every row counts once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.accounts.accounting import account_of
from data_prep.cli import main
from data_prep.errors import FolderError, InputError
from data_prep.fetch.supervisor import RawShard
from data_prep.lists.row_list import ListedImage, read_shard_rows, write_rows
from data_prep.output.job import Folder, ImageSettings, Job, write_job
from data_prep.shards.manifest import read_manifest
from data_prep.shards.writer import FetchResult, read_record, write_shard
from data_prep.stages.download import Conversion, convert
from data_prep.stages.retry import (
    WORTH_RETRYING,
    is_meant,
    later_retries,
    left_failures,
    open_round,
    retried_images,
    round_reasons,
)
from pipeline.data.corpus import manifest as trainer
from pipeline.data.corpus.reader import ShardReader
from tests.support.data_prep_runs import kill_all, run, samples, start, wait_for
from tests.support.hostile_images import jpeg
from tests.support.image_server import ImageServer, Reply
from tests.support.job_processes import family

NUM_ROWS, SHARD_SIZE = 40, 8
FLAGS = (
    *("--allow-private-addresses", "--processes", 1, "--threads", 1),
    *("--timeout", 5, "--image-timeout", 5, "--retries", 0),
)


def make_folder(
    root: Path, results: list[str | None], shard_size: int = 4, server: str = "http://a.example"
) -> tuple[Folder, Job]:
    """A finished download with an image (None) or a failure for each row, as the command leaves it."""
    folder = Folder(root)
    for path in (folder.shards, folder.failures, folder.raw):
        path.mkdir(parents=True)
    images = [ListedImage(f"{server}/{row}.jpg", [f"picture {row}"]) for row in range(len(results))]
    write_rows(folder.rows, images, shard_size)
    job = Job(
        kind="download",
        source="web",
        inputs_sha256="0" * 64,
        shard_size=shard_size,
        images=ImageSettings(image_size=32),
        num_rows=len(results),
    )
    write_job(folder, job)
    for shard in range(job.num_shards):
        answer(folder, job, shard, dict(enumerate(results)))
    return folder, job


def answer(folder: Folder, job: Job, shard: int, by_row: dict[int, str | None]) -> None:
    """Make a shard of the job's own list: `None` stands for a good image."""
    rows = read_shard_rows(folder.rows, shard)
    results = [FetchResult(row, None if by_row[row] else jpeg(), by_row[row]) for row in rows]
    write_shard(folder, job, shard, rows, results, {})


def begin(folder: Folder, job: Job, reasons: list[str] | None = None) -> tuple[Folder, Job]:
    """A round as the command begins it."""
    opened = open_round(folder, job, reasons)
    assert opened is not None
    retried, round_job = opened
    for path in (retried.shards, retried.failures, retried.raw):
        path.mkdir(parents=True, exist_ok=True)
    write_rows(retried.rows, retried_images(folder, job, retried), job.shard_size)
    write_job(retried, round_job)
    return retried, round_job


@pytest.mark.parametrize(
    ("reason", "worth"),
    [
        *((reason, True) for reason in ("timed_out", "http_500", "http_503", "http_599", "http_429", "unknown_host")),
        *((reason, False) for reason in ("http_404", "http_403", "http_5xx2", "http_50", "private_address")),
        *((reason, False) for reason in ("opted_out", "excluded_domain", "not_an_image", "bad_url", "too_many_pixels")),
    ],
)
def test_what_may_have_passed_is_worth_retrying(reason: str, worth: bool) -> None:
    assert is_meant(reason, WORTH_RETRYING) is worth


def test_every_reason_worth_retrying_stands_in_the_table_of_reasons() -> None:
    """docs/shards.md names them all (http_5xx by its examples)."""
    page = (Path(__file__).parents[3] / "docs" / "shards.md").read_text()
    assert [reason for reason in WORTH_RETRYING if not reason.startswith("http_") and f"`{reason}`" not in page] == []


def test_a_round_takes_the_place_of_the_last_failure_of_each_row(tmp_path: Path) -> None:
    """Ten rows, three rounds: what failed last decides, numbers and captions stay, and the sums hold after each."""
    results = [None, "timed_out: x", "http_404: x", "http_500: x", "timed_out: x", None, "http_503: x", None]
    folder, job = make_folder(tmp_path, [*results, "timed_out: x", None])

    first, first_job = begin(folder, job)
    assert (first_job.num_rows, first_job.num_shards, first_job.shard_name(1)) == (5, 2, "web-retry01-00001")
    rows = read_shard_rows(first.rows, 0) | read_shard_rows(first.rows, 1)
    assert {row: image.supersedes for row, image in rows.items()} == {
        1: "timed_out",
        3: "http_500",
        4: "timed_out",
        6: "http_503",
        8: "timed_out",
    }
    assert rows[6].url == "http://a.example/6.jpg" and rows[6].captions == ["picture 6"]
    for shard in (0, 1):
        answer(first, first_job, shard, {1: None, 3: "http_404: x", 4: "http_503: x", 6: None, 8: "timed_out: x"})
    assert read_record(first.shards / "web-retry01-00000.json").supersedes == {
        "http_500": 1,
        "http_503": 1,
        "timed_out": 2,
    }
    assert dict(left_failures(folder, job)) == {2: "http_404", 3: "http_404", 4: "http_503", 8: "timed_out"}
    account = account_of(folder, job)
    assert (account.listed, account.kept, account.complete) == (10, 6, True)
    assert account.failed == {"http_404": 2, "http_503": 1, "timed_out": 1}

    second, second_job = begin(folder, job, ["http_503", "http_404"])
    assert round_reasons(second) == ["http_503", "http_404"] and second.root.name == "retry-02"
    answer(second, second_job, 0, {2: "http_404: x", 3: None, 4: None})
    assert dict(left_failures(folder, job)) == {2: "http_404", 8: "timed_out"}

    third, third_job = begin(folder, job)
    answer(third, third_job, 0, {8: None})
    assert dict(left_failures(folder, job)) == {2: "http_404"}
    account = account_of(folder, job)
    assert (account.listed, account.kept, account.failed) == (10, 9, {"http_404": 1})
    assert open_round(folder, job, None) is None and not (tmp_path / "retry-04").exists()


def test_a_shard_made_again_leaves_to_the_rounds_what_they_have(tmp_path: Path) -> None:
    """Row 1 was answered by a round, row 2 is with another; now the broken shard is made again, and all answer."""
    folder, job = make_folder(tmp_path, [None, "http_503: busy", "timed_out: silence", "http_404: gone"])
    retried, round_job = begin(folder, job, ["http_503"])
    answer(retried, round_job, 0, {1: None})
    second, second_job = begin(folder, job, ["timed_out"])
    rounds = (retried.root / "retried.parquet", second.root / "retried.parquet")
    assert later_retries(folder, job) == rounds
    assert later_retries(retried, round_job) == rounds[1:] and later_retries(second, second_job) == ()

    raw = RawShard(0, folder.raw)
    results = {"row": [3, 1, 0, 2], "jpg": [jpeg()] * 4, "error_message": pa.array([None] * 4, pa.string())}
    pq.write_table(pa.table(results), raw.parquet)
    record = convert(
        Conversion(
            folder=folder,
            job=job,
            raw=raw,
            min_yield=0.0,
            excluded_hashes=None,
            later_retries=later_retries(folder, job),
            arguments={},
        )
    )
    assert (record.kept, record.failed) == (2, {"http_503": 1, "timed_out": 1})
    account = account_of(folder, job)
    assert (account.listed, account.kept, dict(account.failed)) == (4, 3, {"timed_out": 1})


def test_a_round_that_is_not_finished_is_resumed(tmp_path: Path) -> None:
    """Also when its list is gone from .work; with other reasons it is refused."""
    folder, job = make_folder(tmp_path, ["timed_out: x", None, "http_404: x"])
    retried, round_job = begin(folder, job)
    assert open_round(folder, job, None) == (retried, round_job)
    assert open_round(folder, job, list(reversed(WORTH_RETRYING))) == (retried, round_job)
    with pytest.raises(FolderError, match="was started with --reasons timed_out,"):
        open_round(folder, job, ["http_404"])
    retried.rows.unlink()
    assert [image.row for image in retried_images(folder, job, retried)] == [0]


def test_what_cannot_be_retried_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A download with a shard missing, a pack, a list that is gone: each with the way out."""
    folder, job = make_folder(tmp_path / "a", ["timed_out: x"] * 6)
    (folder.shards / "web-00001.json").unlink()
    assert main(["retry", str(folder.root)]) == 2
    assert "is unfinished: 1 of 2 shards are missing" in capsys.readouterr().err
    answer(folder, job, 1, dict.fromkeys(range(6), "timed_out: x"))
    folder.rows.unlink()
    assert main(["retry", str(folder.root)]) == 2
    error = capsys.readouterr().err
    assert "the list that the download read is gone" in error and "run the same download command again" in error
    assert main(["retry", str(folder.root), "--reasons", "timed out"]) == 2
    assert "are not names of reasons" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    assert main(["retry", str(tmp_path / "b")]) == 2
    assert "is not the folder of a download" in capsys.readouterr().err
    write_job(Folder(tmp_path / "b"), dataclasses.replace(job, kind="pack"))
    assert main(["retry", str(tmp_path / "b")]) == 2
    assert "is of a pack: nothing was downloaded" in capsys.readouterr().err


def test_a_broken_list_of_failures_is_reported(tmp_path: Path) -> None:
    folder, job = make_folder(tmp_path, ["timed_out: x"])
    (folder.failures / "web-00000.jsonl").unlink()
    with pytest.raises(InputError, match=r"web-00000\.jsonl is missing or broken"):
        open_round(folder, job, None)


@dataclass
class Web:
    """Every fourth picture is gone, every fourth hiccups once, every fourth hiccups and is then gone."""

    delay_s: float = 0.0
    back: bool = False
    """Whether what was gone after a hiccup is there again."""
    asked: Counter[int] = field(default_factory=Counter)

    def reply(self, path: str) -> Reply:
        row = int(path[1:-4])
        self.asked[row] += 1
        if row % 4 == 1 or (row % 4 == 2 and self.asked[row] == 1):
            return Reply(status=404 if row % 4 == 1 else 503)
        if row % 4 == 3 and not self.back:
            return Reply(status=503 if self.asked[row] == 1 else 404, delay_s=self.delay_s)
        return Reply(jpeg(), delay_s=self.delay_s)


@pytest.fixture
def web() -> Iterator[tuple[Web, ImageServer]]:
    web = Web()
    with ImageServer() as server:
        server.serve_anything(web.reply)
        yield web, server


def tars(folder: Path) -> dict[str, str]:
    paths = [path.with_suffix(".tar") for path in folder.glob("**/shards/*.json")]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def sums(folder: Path) -> tuple[int, dict[str, int]]:
    """Kept, and failed by reason, when report, datasheet and manifest agree on them and nothing is left."""
    report, sheet = (json.loads((folder / name).read_text()) for name in ("report.json", "datasheet.json"))
    assert (report["listed"], report["left"], report["complete"]) == (NUM_ROWS, 0, True)
    assert (sheet["listed"], sheet["kept"], sheet["failed"]) == (NUM_ROWS, report["kept"], report["failed"])
    manifest = read_manifest(folder / "manifest.parquet")
    assert sum(row["num_samples"] for row in manifest) == report["kept"]
    superseded = sum(entry["count"] for row in manifest for entry in row["supersedes"])
    assert sum(row["listed"] for row in manifest) - superseded == NUM_ROWS
    return report["kept"], report["failed"]


@pytest.mark.slow
def test_rounds_by_the_command_one_of_them_killed(
    web: tuple[Web, ImageServer], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """40 rows: 10 good, 30 failed; a round of 20, killed -9 and resumed, keeps 10; one by --reasons 10 more."""
    site, server = web
    out = tmp_path / "out"
    failed = [None, "http_404: gone", "http_503: busy", "http_503: busy"]  # of rows 0, 1, 2, 3, 4 as 0, ...
    make_folder(out, failed * (NUM_ROWS // 4), SHARD_SIZE, server.address)
    site.asked.update(range(NUM_ROWS))
    assert main(["verify", str(out)]) == 0
    assert sums(out) == (10, {"http_404": 10, "http_503": 20})
    at_first = tars(out)

    site.delay_s = 0.25
    command = ("retry", out, *FLAGS)
    killed = start(*command)
    try:
        wait_for(lambda: list(out.glob("retry-01/shards/*.json")), "a shard of the round")
    finally:
        kill_all(family(killed.pid))
        killed.communicate()
    site.delay_s = 0.0
    half = tars(out)
    assert len(at_first) < len(half) < len(at_first) + 3
    assert main(["verify", str(out), "--keep-going"]) == 1
    assert "missing: run `data_prep retry` again" in capsys.readouterr().out
    again = run(*command)
    assert again.returncode == 0, again.stderr
    assert "retry-01: 20 rows in 3 shards" in again.stderr
    assert {name: tars(out)[name] for name in half} == half, "a finished shard was made again"
    assert sums(out) == (20, {"http_404": 20})
    assert all(site.asked[row] == 1 for row in range(NUM_ROWS) if row % 4 < 2), "what was good or gone was asked again"

    before = site.asked.total()
    assert main([str(word) for word in command]) == 0
    printed = capsys.readouterr().out
    assert "nothing is left to retry" in printed and "kept            20" in printed
    site.back = True
    assert run(*command, "--reasons", "http_404,opted_out").returncode == 0
    assert site.asked.total() == before + 20
    assert sums(out) == (30, {"http_404": 10})

    kept = samples(out)
    assert sorted(kept) == [row for row in range(NUM_ROWS) if row % 4 != 1]
    assert all(meta["captions"] == [f"picture {row}"] for row, (_, meta) in kept.items())
    assert {name: tars(out)[name] for name in at_first} == at_first
    assert main(["verify", str(out)]) == 0
    assert sums(out) == (30, {"http_404": 10})
    assert main(["status", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "failed          10   25.0%  http_404" in printed and "retry-02" in printed

    manifest = trainer.read_manifest(out)
    reader = ShardReader()
    names = Counter(reader.read(manifest.sample(index)).name for index in range(manifest.num_samples))
    reader.close()
    assert names == Counter(f"web-{row:09d}" for row in kept), "one epoch takes every kept sample once"
