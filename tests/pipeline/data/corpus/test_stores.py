"""Manifests and shards by URL, and through pipes: the same samples, retries, bounds, and clear errors."""

from __future__ import annotations

import dataclasses
import itertools
import resource
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.registry import known_implementations

from albef.errors import ConfigError, DataError
from pipeline.config.sections import DataConfig
from pipeline.data.corpus import stores
from pipeline.data.corpus.manifest import read_manifest
from pipeline.data.corpus.reader import BadSample, ShardReader
from pipeline.data.corpus.shard_cache import ShardCache
from pipeline.data.loader import TrainingLoader
from pipeline.tasks.pretraining.collate import PretrainBatcher
from tests.pipeline.data.test_loader import MICRO_BATCH, NUM_LANES, TOKENIZER, assert_equal, play
from tests.support.range_server import RangeServer
from tests.support.shards import write_corpus

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than processors


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Four shards, 47 samples; returns the folder."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), [20, 9, 1, 17]).parent


@pytest.fixture
def impatient(monkeypatch) -> None:
    """As many tries, with short pauses."""
    monkeypatch.setattr(stores, "PAUSES_S", (0.01, 0.01, 0.01))


def loader(where: Path | str, **data) -> TrainingLoader:
    from albef.config import AlbefConfig, ObjectiveConfig

    config = DataConfig(**({"num_workers": 0, "shuffle_window_shards": 2} | data))
    return TrainingLoader(
        read_manifest(str(where), check_shards="shard_opener" not in data).cached(config),
        data=config,
        batcher=PretrainBatcher(
            model=AlbefConfig.tiny(image_size=32),
            objective=ObjectiveConfig(),
            augment=config.augment,
            max_caption_words=config.max_caption_words,
            tokenizer=TOKENIZER,
        ),
        seed=5,
        micro_batch_size=MICRO_BATCH,
        num_lanes=NUM_LANES,
        lanes=range(NUM_LANES),
    )


def assert_same_steps(ours: TrainingLoader, theirs: TrainingLoader, start: int = 3, count: int = 4) -> None:
    for one, other in zip(play(ours, start, count), play(theirs, start, count), strict=True):
        assert not one.skipped and not other.skipped
        for lane in range(NUM_LANES):
            assert_equal(one.lanes[lane], other.lanes[lane], f"step {one.step}, lane {lane}")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_http_with_ranges_gives_the_steps_of_the_disk_and_moves_little(corpus, num_workers):
    """From a worker too, started at a late step; what is sent is the samples asked for, not the shards."""
    with RangeServer(corpus) as server:
        remote = loader(server.address, num_workers=num_workers)
        before = server.num_sent
        list(itertools.islice(remote.steps(4), 1))
        remote.close()
        shards = sum(file.stat().st_size for file in corpus.glob("*.tar"))
        if num_workers == 0:
            assert 0 < server.num_sent - before < shards / 2
        assert_same_steps(remote, loader(corpus))


def test_other_stores_are_listed_once_and_read_by_ranges(corpus):
    """fsspec's memory store stands for s3 and gs, which have the same calls: listing, sizes, ranges."""
    store = fsspec.filesystem("memory")
    for file in corpus.iterdir():
        store.pipe_file(f"/bucket/{file.name}", file.read_bytes())
    try:
        assert_same_steps(loader("memory://bucket"), loader(corpus))
        ours, theirs = read_manifest("memory://bucket/manifest.parquet"), read_manifest(corpus)
        assert ours.fingerprint() == theirs.fingerprint()
        assert ours.shards[0].path == "memory://bucket/shard_00000.tar"
        store.pipe_file("/bucket/shard_00001.tar", b"short")
        with pytest.raises(DataError, match=r"1 of 4 shards are of another size: shard_00001.tar"):
            read_manifest("memory://bucket")
        store.rm_file("/bucket/shard_00001.tar")
        with pytest.raises(DataError, match=r"1 of 4 shards are missing: shard_00001.tar"):
            read_manifest("memory://bucket")
    finally:
        store.rm("/bucket", recursive=True)


def test_a_manifest_in_a_store_may_name_shards_of_a_neighbouring_folder(corpus):
    """As a filtered corpus does: `..` is folded into the URI, since stores have no such folder."""
    store = fsspec.filesystem("memory")
    table = pq.read_table(corpus / "manifest.parquet")
    paths = [f"../web/{path}" for path in table["path"].to_pylist()]
    table = table.set_column(0, "path", pa.array(paths))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    try:
        store.pipe_file("/bucket/filtered/manifest.parquet", sink.getvalue().to_pybytes())
        for file in corpus.glob("*.tar"):
            store.pipe_file(f"/bucket/web/{file.name}", file.read_bytes())
        assert read_manifest("memory://bucket/filtered").shards[0].path == "memory://bucket/web/shard_00000.tar"
    finally:
        store.rm("/bucket", recursive=True)


def test_a_file_url_is_a_path(corpus):
    """Read by the operating system, as fast as any."""
    assert read_manifest(f"file://{corpus}").shards[0].path == str(corpus / "shard_00000.tar")


def test_a_lost_answer_costs_no_sample(corpus, impatient):
    """Three 503 in a row, of the manifest and of a sample, are outlasted; a fourth is the end."""
    with RangeServer(corpus) as server:
        server.failures = 3
        ref = read_manifest(server.address).sample(5)
        server.failures = 3
        assert ShardReader().read(ref).name == "000000005"
        server.failures = 4
        with pytest.raises(BadSample, match=r"shard_unreadable: .*503"):
            ShardReader().read(ref)


def test_what_is_gone_has_its_name(corpus, tmp_path, impatient):
    """No manifest, a shard removed, the server gone: named, not a traceback."""
    with RangeServer(corpus) as server:
        with pytest.raises(DataError, match="no manifest at http"):
            read_manifest(f"{server.address}/nothing")
        ref = read_manifest(server.address).sample(5)
        with pytest.raises(BadSample, match=r"shard_unreadable: .*gone.tar"):
            ShardReader().read(dataclasses.replace(ref, path=f"{server.address}/gone.tar"))
        address = server.address
    with pytest.raises(BadSample, match="shard_unreadable"):
        ShardReader().read(ref)
    with pytest.raises(DataError, match="cannot be fetched"):
        read_manifest(address)


def test_a_server_without_ranges_is_refused_before_it_sends_a_shard(corpus):
    """Reading on would move a whole shard for every sample; the way out is in the message."""
    with RangeServer(corpus, ranges=False) as server:
        manifest = read_manifest(server.address)
        with pytest.raises(BadSample, match=r"no byte ranges.*data.shard_opener"):
            ShardReader().read(manifest.sample(5))


def test_a_missing_package_is_named(monkeypatch):
    """fsspec knows the protocol, its package is not there; or nobody knows it."""
    absent = {"class": "no_such_package.Store", "err": "Install s3fs to access S3"}
    monkeypatch.setitem(known_implementations, "s3a", absent)
    with pytest.raises(DataError, match=r"s3a://bucket/cc3m/manifest.parquet: Install s3fs") as error:
        read_manifest("s3a://bucket/cc3m")
    assert error.value.hint == "pip install s3fs"
    with pytest.raises(DataError, match="Protocol not known: nowhere"):
        read_manifest("nowhere://bucket")


def test_bugs_and_memory_are_not_the_stores_faults():
    """Only OSErrors and the classes of a store's own package are asked again and become bad samples."""
    for bug in (MemoryError(), TypeError("x"), KeyError("x"), DataError("x", "y")):
        assert not stores.is_store_fault(bug)
    for fault in (OSError("x"), TimeoutError(), EOFError(), torch.jit.Error()):
        assert stores.is_store_fault(fault)


def cached(corpus: Path | str, folder: Path, opener: str, num_workers: int = 0) -> TrainingLoader:
    data = {
        "shard_opener": opener,
        "cache_dir": str(folder),
        "cache_gib": 1.0,
        "num_workers": num_workers,
        "timeout_s": 120,
    }
    return loader(corpus, **data)


def test_a_pipe_streams_each_shard_once_for_all_workers(corpus, tmp_path, caplog):
    """Three workers on one folder: the steps of the disk, four commands for four shards, and the cost in the log."""
    commands = tmp_path / "commands"
    opener = f"pipe:echo {{name}} >> {commands}; cat {{path}}"
    with caplog.at_level("INFO"):
        piped = cached(corpus, tmp_path / "cache", opener, num_workers=3)
    assert "the first batch waits for up to 2 shards" in caplog.text
    assert_same_steps(piped, loader(corpus), start=0, count=10)
    assert sorted(commands.read_text().split()) == [f"shard_0000{number}.tar" for number in range(4)]


DEAF_WORKER = """
import os, signal, subprocess
from pipeline.data.lane_task import STOP_SIGNALS
from pipeline.data.corpus.shard_cache import commands_hear_signals
signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
os.kill(os.getpid(), signal.SIGTERM)
show = ["grep", "SigBlk", "/proc/self/status"]
subprocess.run(show, check=True)
with commands_hear_signals():
    subprocess.run(show, check=True)
assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == STOP_SIGNALS
print("alive", flush=True)
"""


def test_commands_hear_the_signals_that_workers_are_deaf_to():
    """A time limit must be able to end a command; a SIGTERM that waited for the worker meanwhile does not end it."""
    done = subprocess.run([sys.executable, "-c", DEAF_WORKER], capture_output=True, text=True, timeout=120)
    outside, inside, alive = done.stdout.split("\n", 2)
    assert int(outside.split()[1], 16) != 0 and int(inside.split()[1], 16) == 0
    assert alive == "alive\n", done.stderr


def test_http_without_ranges_can_be_streamed(corpus, tmp_path):
    """What is refused by ranges works through curl, one of webdataset's openers, as the message advises."""
    with RangeServer(corpus, ranges=False) as server:
        assert_same_steps(cached(server.address, tmp_path, "pipe:curl -sf {path}"), loader(corpus))
        assert_same_steps(cached(server.address, tmp_path / "by_name", "{path}"), loader(corpus))


def test_the_cache_keeps_to_its_bound(tmp_path):
    """Room for two of five shards, read in turn for long: never more on the disk, the unused one goes first."""
    manifest = read_manifest(write_corpus(tmp_path / "shards", [6] * 5))
    sizes = [shard.num_bytes for shard in manifest.shards]
    cache = ShardCache(opener="pipe:cat {path}", folder=str(tmp_path / "cache"), max_bytes=2 * max(sizes))
    reader = ShardReader(cache=cache)
    for index in [*range(30), 3, 27, 4, 15, 3]:
        assert reader.read(manifest.sample(index)).name == f"{index:09d}"
        copies = list((tmp_path / "cache" / "albef_shard_copies").glob("*.tar"))
        assert 0 < sum(copy.stat().st_size for copy in copies) <= 2 * max(sizes)
    assert len(copies) == 2


def test_what_a_killed_worker_left_is_neither_read_nor_kept(corpus, tmp_path):
    """Half a copy under a lock that is free: fetched again, and the half is removed."""
    cache = ShardCache(opener="pipe:cat {path}", folder=str(tmp_path), max_bytes=1 << 30)
    sample = read_manifest(corpus).sample(0)
    ShardReader(cache=cache).read(sample)
    (copy,) = tmp_path.rglob("*.tar")
    copy.rename(copy.with_suffix(".part"))
    with open(copy.with_suffix(".part"), "r+b") as half:
        half.truncate(700)
    assert ShardReader(cache=cache).read(sample).name == "000000000"
    assert copy.is_file() and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("opener", "detail"),
    [
        ("pipe:cat {path}; exit 3", "exit 3"),
        ("pipe:head -c 1000 {path}", "gave 1000 bytes, the manifest has"),
        ("pipe:no-such-command {path}", "exit 127"),
    ],
)
def test_a_stream_that_fails_leaves_no_copy(corpus, tmp_path, impatient, opener, detail):
    """A failing command, a short answer, no such command: a named bad sample, and nothing that a later read trusts."""
    cache = ShardCache(opener=opener, folder=str(tmp_path), max_bytes=1 << 30)
    with pytest.raises(BadSample, match=rf"shard_unreadable: .*{detail}"):
        ShardReader(cache=cache).read(read_manifest(corpus).sample(0))
    assert not list(tmp_path.rglob("*.tar")) and not list(tmp_path.rglob("*.part"))


def test_a_cache_without_room_is_named_at_once(corpus, tmp_path):
    """The store is not to blame: it is not asked again, with its pauses of minutes."""
    ref = read_manifest(corpus).sample(0)
    cache = ShardCache(opener="pipe:cat {path}", folder=str(tmp_path), max_bytes=1 << 30)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, usual[1]))
    try:
        with pytest.raises(DataError, match=f"data.cache_dir {tmp_path} cannot be written: File too large"):
            cache.read(ref.path, ref.shard_bytes, 0, 10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_cache_keys_that_do_not_fit_are_refused(corpus, tmp_path):
    """No folder, no shard in the command, a URI that nothing opens, no room for a window."""
    for data, message in (
        ({"shard_opener": "pipe:cat {path}"}, "needs data.cache_dir"),
        ({"shard_opener": "pipe:cat x", "cache_dir": "c"}, "names no shard"),
        ({"shard_opener": "nowhere://{name}", "cache_dir": "c"}, "opens no nowhere:// URLs"),
    ):
        with pytest.raises(ConfigError, match=message):
            loader(corpus, **data)
    with pytest.raises(DataError, match=r"data.cache_gib 1e-06 holds less than the shuffle window: 2 shards"):
        loader(corpus, shard_opener="pipe:cat {path}", cache_dir=str(tmp_path), cache_gib=1e-6)


def test_paths_are_quoted_for_the_shell():
    """A shard's name is data, not a command."""
    cache = ShardCache(opener="pipe:cat {path} {name}", folder="", max_bytes=1)
    assert cache.source("/a b/$(c);d.tar") == "pipe:cat '/a b/$(c);d.tar' '$(c);d.tar'"
    assert cache.source("/a/{name}{path}.tar") == "pipe:cat '/a/{name}{path}.tar' '{name}{path}.tar'"
