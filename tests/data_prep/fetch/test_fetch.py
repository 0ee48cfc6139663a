"""img2dataset's output is trusted by counted rows, never because a file exists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.fetch.failure import FetchFailed
from data_prep.fetch.retrying_opener import FetchLimits, RetryingOpener
from data_prep.fetch.supervisor import RawShard, is_complete, reusable_shards
from data_prep.output.job import Folder, ImageSettings, Job
from tests.support.hostile_images import jpeg
from tests.support.image_server import ImageServer, Reply

ROWS = 3


def raw_shard(folder: Path, index: int = 0) -> RawShard:
    """Two images and a failure, as img2dataset leaves them."""
    folder.mkdir(exist_ok=True)
    shard = RawShard(index, folder)
    table = {
        "row": [1, 0, 2],
        "jpg": [b"one", None, b"two"],
        "status": ["success", "failed_to_download", "success"],
        "error_message": [None, "http_404: Not Found", None],
    }
    pq.write_table(pa.table(table), shard.parquet)
    counts = {"count": 3, "successes": 2, "failed_to_download": 1, "failed_to_resize": 0}
    shard.stats.write_text(json.dumps(counts))
    return shard


def test_a_complete_shard_gives_its_results(tmp_path: Path) -> None:
    shard = raw_shard(tmp_path)
    assert is_complete(shard, ROWS)
    assert [(result.row, result.data, result.failure) for result in shard.results()] == [
        (1, b"one", None),
        (0, None, "http_404: Not Found"),
        (2, b"two", None),
    ]


def _stats(**changes: int) -> Callable[[RawShard], object]:
    return lambda shard: shard.stats.write_text(json.dumps(json.loads(shard.stats.read_text()) | changes))


DOUBTS: dict[str, Callable[[RawShard], object]] = {
    "no statistics": lambda shard: shard.stats.unlink(),
    "statistics being written": lambda shard: shard.stats.write_text(shard.stats.read_text()[:20]),
    "statistics of something else": lambda shard: shard.stats.write_text("[]"),
    "a row lost in between": _stats(successes=1),
    "fewer rows than listed": _stats(count=2, successes=1),
    "no parquet": lambda shard: shard.parquet.unlink(),
    "half a parquet": lambda shard: shard.parquet.write_bytes(shard.parquet.read_bytes()[:-100]),
    "more successes than images": _stats(successes=3, failed_to_download=0),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_a_shard_in_doubt_is_not_believed(tmp_path: Path, name: str) -> None:
    """Every way in which a killed, full or faulty run leaves a shard that looks finished."""
    shard = raw_shard(tmp_path)
    DOUBTS[name](shard)
    assert not is_complete(shard, ROWS)


def test_leftovers_are_kept_when_proven_and_deleted_when_not(tmp_path: Path) -> None:
    """An earlier run's whole shards need no second download; its half ones and the rest are gone."""
    folder = Folder(tmp_path)
    folder.raw.mkdir(parents=True)
    job = Job(kind="download", source="x", inputs_sha256="", shard_size=ROWS, images=ImageSettings(), num_rows=3 * ROWS)
    first, other, theirs = (folder.raw / name for name in ("18ab-7", "18ac-9", "2024"))
    whole, half, done = (raw_shard(first, index) for index in range(3))
    half.stats.unlink()
    raw_shard(other, 1).parquet.unlink()
    raw_shard(theirs, 1).stats.unlink()
    for launch in (first, other):
        (launch / "launch.txt").write_text("{}")
    assert reusable_shards(folder, job, {0, 1}) == {0: whole}
    left = {path.relative_to(folder.raw).as_posix() for path in folder.raw.rglob("*") if path.is_file()}
    assert left == {"18ab-7/00000.parquet", "18ab-7/00000_stats.json", "18ab-7/launch.txt", "2024/00001.parquet"}
    assert not done.parquet.exists()


def test_pauses_double_and_heed_the_server_up_to_a_limit() -> None:
    """1, 2, 4 s and so on, up to 1.5 times as long by chance; Retry-After lengthens, `max_pause_s` bounds."""
    opener = RetryingOpener(FetchLimits(pause_s=1.0, max_pause_s=10.0))
    for attempt, (shortest, retry_after) in enumerate([(1, 0), (2, 0), (4, 0), (8, 0), (10, 0), (10, 3600)]):
        for _ in range(20):
            assert shortest <= opener._pause_s(attempt, retry_after) <= 1.5 * shortest
    assert 7 <= opener._pause_s(0, 7) <= 10.5


def test_the_worst_case_covers_every_attempt_and_pause() -> None:
    """Three attempts, the pause before each further one, and the host's back-off beforehand."""
    limits = FetchLimits(timeout_s=1, image_timeout_s=2, retries=2, max_pause_s=10)
    assert limits.worst_case_s == 3 * (1 + 2) + 3 * 15


def test_a_body_announced_as_too_large_is_not_read() -> None:
    """A gigabyte is announced and a few bytes are sent: refused for the announced size, not for the missing bytes."""
    opener = RetryingOpener(FetchLimits(retries=0, max_image_bytes=1_000_000, allow_private_addresses=True))
    with ImageServer() as server, pytest.raises(FetchFailed, match="body_too_large: 1000000000 bytes announced"):
        opener.open(server.add("/x.jpg", Reply(jpeg(), announced=10**9)))


def test_only_http_and_https_are_ever_opened(tmp_path: Path) -> None:
    """Neither a listed URL nor a redirect may read a local file."""
    secret = tmp_path / "secret"
    secret.write_bytes(jpeg())
    opener = RetryingOpener(FetchLimits(retries=0, allow_private_addresses=True))
    with ImageServer() as server:
        moved = server.add("/x", Reply(status=302, headers={"Location": secret.as_uri()}))
        for address in (secret.as_uri(), moved, "data:image/png;base64,AAAA", "ftp://127.0.0.1/x"):
            with pytest.raises(FetchFailed) as failed:
                opener.open(address)
            assert str(failed.value).startswith(("unsupported_scheme: ", "bad_redirect: ")), address
