"""Requests at a time to a host, pauses while it answers 429 or Retry-After, and the check of the resolver."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.errors import UnfinishedError
from data_prep.fetch.dns_check import check_dns, sample_hosts
from data_prep.fetch.failure import FetchFailed, retry_after_s
from data_prep.fetch.host_limits import HostLimiter, spread_hosts
from data_prep.fetch.retrying_opener import FetchLimits, RetryingOpener
from data_prep.fetch.supervisor import FetchSettings, Img2DatasetProcess
from data_prep.lists.row_list import ListedImage, write_rows
from data_prep.output.job import Folder, ImageSettings, Job
from tests.support.hostile_images import jpeg
from tests.support.image_server import ImageServer, Reply


class Crowd:
    """How many are inside at a time."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def visit(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.02)
        with self._lock:
            self.now -= 1


def test_per_host_bounds_the_requests_to_each_host() -> None:
    """Forty threads, two hosts, three slots each: never more than three at one, and more than three in all."""
    limiter, crowds, both = HostLimiter(per_host=3), {"a": Crowd(), "b": Crowd()}, Crowd()

    def ask(number: int) -> None:
        host = "ab"[number % 2]
        with limiter.slot(host):
            both_thread = threading.Thread(target=both.visit)
            both_thread.start()
            crowds[host].visit()
            both_thread.join()

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(ask, range(80)))
    assert {host: crowd.most for host, crowd in crowds.items()} == {"a": 3, "b": 3}
    assert both.most > 3


def test_every_thread_backs_off_from_a_host_that_answers_429() -> None:
    """One thread gets 429 with Retry-After; those that come after it wait, and threads of another host do not."""
    limiter = HostLimiter(per_host=8)
    opener = RetryingOpener(FetchLimits(retries=0, max_pause_s=1.0, allow_private_addresses=True), limiter)
    with ImageServer() as server:
        busy = server.add("/busy", Reply(status=429, headers={"Retry-After": "600"}))
        good = server.add("/good.jpg", Reply(jpeg()))
        with pytest.raises(FetchFailed, match="http_429"):
            opener.open(busy)
        answered = time.monotonic()
        with limiter.slot("another.example"):
            assert limiter._wait_s("127.0.0.1"), "another host got its slot while this one still waits"
        assert opener.open(good).read() == jpeg()
        assert time.monotonic() - answered > 0.9, "--max-pause bounds what was asked for, and nobody comes before"


def test_a_slot_is_kept_while_its_thread_waits_for_a_further_attempt() -> None:
    """Otherwise other rows could overtake it for ever, and the watchdog would take that for a stall."""
    limiter = HostLimiter(per_host=1)
    opener = RetryingOpener(FetchLimits(retries=1, pause_s=0.2, allow_private_addresses=True), limiter)
    with ImageServer() as server, ThreadPoolExecutor(2) as pool:
        flaky = server.add("/flaky", Reply(status=503), Reply(b"first"))
        server.add("/second", Reply(b"second"))
        first = pool.submit(opener.open, flaky)
        while not server.hits["/flaky"]:
            time.sleep(0.01)
        second = pool.submit(opener.open, server.url("/second"))
        assert second.result().read() == b"second"
        assert first.done() and first.result().read() == b"first" and server.hits["/flaky"] == 2


def test_retry_after_may_be_seconds_or_a_date() -> None:
    """RFC 9110, 10.2.3; any other value means no pause."""
    assert retry_after_s("120") == 120
    later = retry_after_s(format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True))
    assert 95 < later <= 100
    assert [retry_after_s(text) for text in ("", "soon", "-3", "Wed, 21 Oct 2015 07:28:00 GMT", "1e9")] == [0.0] * 5


def test_rows_of_a_host_are_spread_over_the_shard() -> None:
    """A list sorted by host is asked round by round; every row once, and rows of a host in their order."""
    hosts = ["a", "a", "a", "b", "b", "c"]
    order = spread_hosts(hosts)
    assert order == [0, 3, 5, 1, 4, 2]
    assert [hosts[row] for row in order] == ["a", "b", "c", "a", "b", "a"]


@pytest.mark.parametrize(("per_host", "processes", "shards", "share"), [(16, 4, 9, 4), (16, 4, 2, 8), (3, 8, 9, 1)])
def test_the_workers_share_what_a_host_may_be_asked(
    tmp_path: Path, per_host: int, processes: int, shards: int, share: int
) -> None:
    """16 among 4 workers are 4 each; fewer shards start fewer workers; and each has at least one."""
    folder = Folder(tmp_path)
    job = Job(kind="download", source="x", inputs_sha256="", shard_size=1, images=ImageSettings(), num_rows=shards)
    settings = FetchSettings(processes=processes, per_host=per_host)
    process = Img2DatasetProcess.__new__(Img2DatasetProcess)
    process._job, process._out = job, tmp_path
    assert process._request(folder, list(range(shards)), settings)["per_host"] == share


def resolver(*dead: str):
    def resolve(host: str) -> None:
        if host in dead:
            raise OSError("no such host")

    return resolve


def test_the_share_of_hosts_that_resolve_is_reported() -> None:
    check = check_dns(["a.example", "b.example", "c.example", "d.example"], resolve=resolver("b.example"))
    assert str(check) == "dns check: 3 of 4 hosts of the list resolve (75%)"


def test_a_download_does_not_begin_when_no_host_resolves() -> None:
    """A resolver that is down would make every row a failure; one that never answers counts as down."""
    with pytest.raises(UnfinishedError, match=r"none of 2 hosts of the list resolves: a\.example, b\.example") as error:
        check_dns(["b.example", "a.example"], resolve=resolver("a.example", "b.example"))
    assert "the resolver of this machine is the likely fault" in error.value.hint
    never = threading.Event()
    with pytest.raises(UnfinishedError):
        check_dns(["a.example"], resolve=lambda host: never.wait(), patience_s=0.1)
    never.set()


def test_only_names_that_this_machine_would_look_up_are_sampled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeded and distinct; not IP addresses, local names, rejected rows, nor what a proxy looks up for us."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    images = [ListedImage(f"http://{row % 100}.example/{row}.jpg", ["x"]) for row in range(300)]
    images += [ListedImage(f"http://{host}/x.jpg", ["x"]) for host in ("127.0.0.1", "[::1]", "8.8.8.8", "printer")]
    images += [ListedImage("http://rejected.example/", [], "empty_caption: none")]
    write_rows(tmp_path / "rows", images, 50)
    sample = sample_hosts(tmp_path / "rows", list(range(7)), seed=1)
    assert len(sample) == 50 and sample <= {f"{number}.example" for number in range(100)}
    assert sample == sample_hosts(tmp_path / "rows", list(range(7)), seed=1)
    assert sample != sample_hosts(tmp_path / "rows", list(range(7)), seed=2)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "7.example")
    assert sample_hosts(tmp_path / "rows", list(range(7))) == {"7.example"}


def test_the_command_stops_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 1 and nothing recorded. The resolver is simulated: a real look-up would leave the machine."""

    def dead(host: str, *_: object) -> None:
        raise OSError("no resolver")

    monkeypatch.setattr(socket, "getaddrinfo", dead)
    monkeypatch.setenv("no_proxy", "*")
    urls = tmp_path / "list.tsv"
    urls.write_text("url\tcaption\nhttp://pictures.example/a.jpg\ta picture\n")
    assert main(["download", "--urls", str(urls), "--out", str(tmp_path / "out"), "--processes", "1"]) == 1
    error = capsys.readouterr().err
    assert "error: none of 1 hosts of the list resolves: pictures.example" in error and "--no-dns-check" in error
    assert not list((tmp_path / "out" / "shards").iterdir())
