"""The loader's promises: one order for every world size and worker count, seeking, replacements, clear ends."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

from albef.config import AlbefConfig, ObjectiveConfig
from albef.errors import DataError, ProcessKilledError
from albef.inputs.batch import PretrainBatch
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.sections import AugmentConfig, DataConfig
from pipeline.data.corpus.manifest import read_manifest
from pipeline.data.loader import StepBatches, TrainingLoader
from pipeline.data.sampling.replacements import replacements
from pipeline.tasks.pretraining.collate import PretrainBatcher
from tests.support.shards import pair, write_corpus, write_manifest

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than processors

TOKENIZER = AlbefTokenizer()
NUM_LANES, MICRO_BATCH = 4, 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """Shards of 20, 9, 1 and 17: 47 samples, five steps of 8 and a remainder of 7."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), [20, 9, 1, 17])


def make_loader(
    corpus: Path | tuple[str, ...],
    *,
    num_lanes: int = NUM_LANES,
    micro_batch_size: int = MICRO_BATCH,
    lanes: range | None = None,
    seed: int = 5,
    image_size: int = 32,
    **data: Any,
) -> TrainingLoader:
    """A loader of small images without workers; `data` goes to DataConfig."""
    config = DataConfig(**({"num_workers": 0, "shuffle_window_shards": 2} | data))
    return TrainingLoader(
        read_manifest(corpus).cached(config),
        data=config,
        batcher=PretrainBatcher(
            model=AlbefConfig.tiny(image_size=image_size),
            objective=ObjectiveConfig(),
            augment=config.augment,
            max_caption_words=config.max_caption_words,
            tokenizer=TOKENIZER,
        ),
        seed=seed,
        micro_batch_size=micro_batch_size,
        num_lanes=num_lanes,
        lanes=range(num_lanes) if lanes is None else lanes,
    )


def play(loader: TrainingLoader, start: int, count: int) -> list[StepBatches]:
    steps = list(itertools.islice(loader.steps(start), count))
    loader.close()
    return steps


def keys(steps: list[StepBatches]) -> list[str]:
    return [key for step in steps for lane in step.lanes for key in lane.keys]


def assert_equal(ours: PretrainBatch, theirs: PretrainBatch, what: str) -> None:
    """Every field to the bit."""
    for field in dataclasses.fields(PretrainBatch):
        a, b = getattr(ours, field.name), getattr(theirs, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, f"{what}: {field.name} differs"


def test_an_epoch_holds_every_sample_once_but_the_remainder(corpus):
    """Three epochs of five steps: 40 of 47 samples each, none twice; other orders, and other samples left out."""
    loader = make_loader(corpus)
    assert loader.steps_per_epoch == 5 and loader.order.remainder == 7
    steps = play(loader, 0, 15)
    assert [step.step for step in steps] == list(range(15))
    assert [step.epoch for step in steps] == [0] * 5 + [1] * 5 + [2] * 5
    epochs = [keys(steps[first : first + 5]) for first in (0, 5, 10)]
    assert all(len(set(epoch)) == len(epoch) == 40 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == len({frozenset(epoch) for epoch in epochs}) == 3
    assert not any(step.skipped for step in steps)


def test_two_and_four_ranks_take_the_micro_batches_of_one(corpus):
    """Lane by lane and step by step, every tensor to the bit."""
    alone = play(make_loader(corpus), 0, 7)
    for world_size in (2, 4):
        share = NUM_LANES // world_size
        for rank in range(world_size):
            lanes = range(rank * share, (rank + 1) * share)
            for one, mine in zip(alone, play(make_loader(corpus, lanes=lanes), 0, 7), strict=True):
                for lane, batch in zip(lanes, mine.lanes, strict=True):
                    assert_equal(batch, one.lanes[lane], f"rank {rank} of {world_size}, step {one.step}, lane {lane}")


def test_workers_do_not_change_the_micro_batches(corpus):
    """0, 1 and 3 workers: the same eleven steps over two epoch ends, every tensor to the bit."""
    expected = play(make_loader(corpus), 2, 11)
    for num_workers in (1, 3):
        for one, other in zip(expected, play(make_loader(corpus, num_workers=num_workers), 2, 11), strict=True):
            assert (one.step, one.epoch, one.skipped) == (other.step, other.epoch, other.skipped)
            for lane in range(NUM_LANES):
                assert_equal(other.lanes[lane], one.lanes[lane], f"{num_workers} workers, step {one.step}, {lane}")


def test_weights_keep_the_lanes_promises(corpus, tmp_path):
    """Two sources 1 : 3, ranks and workers as one rank without: every tensor to the bit, started in a late epoch."""
    manifests = (str(corpus), str(write_corpus(tmp_path, [11, 13], source="other")))

    def loader(**changes: Any) -> TrainingLoader:
        return make_loader(manifests, manifests=manifests, weights=(1, 3), **changes)

    alone = play(loader(), 7, 5)
    assert loader().steps_per_epoch == 4  # 24 of the second source and a third as many of the first
    assert sum(key.startswith("other/") for key in keys(alone)) == 5 * 6
    for rank in range(2):
        lanes = range(rank * 2, rank * 2 + 2)
        for one, mine in zip(alone, play(loader(lanes=lanes, num_workers=rank * 2), 7, 5), strict=True):
            for lane, batch in zip(lanes, mine.lanes, strict=True):
                assert_equal(batch, one.lanes[lane], f"rank {rank} of 2, step {one.step}, lane {lane}")


def test_seeking_is_playing(corpus):
    """Started at any step, the loader gives what it gives there when it started at 0; also on the same loader again."""
    whole = play(make_loader(corpus), 0, 12)
    loader = make_loader(corpus)
    for start in (11, 4, 5):
        found = next(loader.steps(start))
        assert found.step == start
        for lane in range(NUM_LANES):
            assert_equal(found.lanes[lane], whole[start].lanes[lane], f"step {start}, lane {lane}")
    loader.close()


def test_augmentation_depends_on_seed_epoch_and_key_only(corpus):
    """Other lanes, batches, windows and steps: a sample's image and caption stay; not in another epoch or seed."""

    def images(epoch: int, **changes: Any) -> dict[str, tuple[torch.Tensor, str]]:
        loader = make_loader(corpus, **changes)
        steps = play(loader, epoch * loader.steps_per_epoch, loader.steps_per_epoch)
        return {
            key: (image, caption)
            for step in steps
            for lane in step.lanes
            for key, image, caption in zip(lane.keys, lane.image, lane.captions, strict=True)
        }

    first = images(1)
    other = images(1, num_lanes=3, micro_batch_size=5, shuffle_window_shards=4)
    both = first.keys() & other.keys()
    assert len(both) > 30
    assert all(torch.equal(first[key][0], other[key][0]) and first[key][1] == other[key][1] for key in both)
    for changed in (images(2), images(1, seed=6)):
        both = first.keys() & changed.keys()
        assert sum(torch.equal(first[key][0], changed[key][0]) for key in both) == 0
        assert 0 < sum(first[key][1] == changed[key][1] for key in both) < len(both)


def test_the_loader_leaves_the_global_generators_alone(corpus):
    """Training draws dropout from torch's own generator: starting and running a loader must not move it."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    play(make_loader(corpus), 0, 2)
    play(make_loader(corpus, num_workers=1), 0, 2)
    assert torch.equal(before, torch.get_rng_state())


def damaged_corpus(folder: Path, bad: dict[int, str]) -> Path:
    """Shards of 10 and 10 in which the samples `bad` are spoilt, each in its way."""
    pairs = [pair(number) for number in range(20)]
    for number, how in bad.items():
        spoilt: dict[str, Any] = {
            "json_damaged": {"record": b"{"},
            "image_undecodable": {"jpg": pairs[number].jpg[:400]},
            "caption_empty": {"captions": ["...", ""]},
        }
        pairs[number] = dataclasses.replace(pairs[number], **spoilt[how])
    return write_manifest(folder, [pairs[:10], pairs[10:]])


def test_replacements_stand_in_without_shifting_the_order(tmp_path):
    """Three spoilt samples: their places hold the first good replacement, all other places what they held before."""
    bad = {3: "json_damaged", 4: "image_undecodable", 15: "caption_empty"}
    bad[5] = "caption_empty"  # the first replacement of 3 is 3 + 10 // 4 = 5, spoilt as well: the second is 3 + 5
    whole = write_manifest(tmp_path / "whole", [[pair(n) for n in range(10)], [pair(n) for n in range(10, 20)]])
    broken = damaged_corpus(tmp_path / "broken", bad)
    starts = read_manifest(broken).starts
    sizes: dict[str, Any] = {"num_lanes": 2, "micro_batch_size": 5}
    healthy = play(make_loader(whole, **sizes), 0, 4)
    for num_workers in (0, 1):
        steps = play(make_loader(broken, num_workers=num_workers, **sizes), 0, 4)
        for one, other in zip(healthy, steps, strict=True):
            replaced: list[str] = []
            for lane in range(2):
                for place, key in enumerate(one.lanes[lane].keys):
                    got = other.lanes[lane].keys[place]
                    if int(key) not in bad:
                        assert got == key
                        assert torch.equal(other.lanes[lane].image[place], one.lanes[lane].image[place])
                        continue
                    tries = replacements(starts, torch.tensor([int(key)]).numpy())[0].tolist()
                    assert int(got) == next(number for number in tries if number not in bad)
                    replaced.append(bad[int(key)])
            assert other.skipped == {reason: replaced.count(reason) for reason in set(replaced)}
    assert sum(sum(step.skipped.values()) for step in steps) == 8  # four in each of two epochs


def test_replaced_samples_are_logged_sparingly(tmp_path, caplog):
    """Fifteen replaced samples in five steps: ten lines name sample, replacement and reason; then silence."""
    broken = damaged_corpus(tmp_path, dict.fromkeys((0, 3, 11), "json_damaged"))
    with caplog.at_level(logging.WARNING):
        steps = play(make_loader(broken, num_lanes=1, micro_batch_size=20), 0, 5)
    assert [step.skipped for step in steps] == [{"json_damaged": 3}] * 5
    lines = [record.message for record in caplog.records if "replaced by" in record.message]
    assert len(lines) == 10
    assert re.search(r"0000000\d\d replaced by 0000000\d\d: json_damaged: .*shard_0000\d\.tar", lines[0])
    assert "json_damaged 12" in lines[-1]


def test_a_run_of_bad_samples_ends_training(tmp_path):
    """A whole shard spoilt, read on its own: the stated number in a row is an error, one fewer is not."""
    bad = dict.fromkeys(range(10), "caption_empty")
    broken = damaged_corpus(tmp_path, bad)
    sizes: dict[str, Any] = {"num_lanes": 2, "micro_batch_size": 2, "shuffle_window_shards": 1}
    steps = play(make_loader(broken, max_failures_in_a_row=11, **sizes), 0, 5)
    assert sum(sum(step.skipped.values()) for step in steps) == 10
    with pytest.raises(DataError, match="10 samples in a row could not be used, caption_empty last") as error:
        play(make_loader(broken, max_failures_in_a_row=10, **sizes), 0, 10)
    assert "max_failures_in_a_row" in error.value.hint


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_dead_mount_ends_training(tmp_path, num_workers):
    """The shards vanish in mid-run: an error that names a shard, not endless replacements."""
    corpus = write_corpus(tmp_path / "mount", [10] * 40, width=72)
    loader = make_loader(corpus, num_workers=num_workers, prefetch=1, shuffle_window_shards=1)
    steps = loader.steps(0)
    next(steps)
    shutil.move(tmp_path / "mount", tmp_path / "gone")
    # Shards that are open can still be read, as from a mount that refuses new files; a step or two reaches another.
    with pytest.raises(
        DataError, match=r"and its 7 replacements .*shard_unreadable: .*shard_000.*No such file"
    ) as error:
        list(itertools.islice(steps, 40))
    assert "mount" in error.value.hint
    loader.close()


def test_a_hanging_mount_ends_training(tmp_path):
    """A shard whose bytes never come: an error after timeout_s, and the stuck worker is gone."""
    (tmp_path / "corpus").mkdir()
    corpus = write_corpus(tmp_path / "corpus", [16])
    loader = make_loader(corpus, num_workers=1, timeout_s=60)
    next(loader.steps(0))  # the fork server is up: from here on a second is ample
    loader.close()
    loader = make_loader(
        corpus, num_workers=1, timeout_s=3, shard_opener="pipe:sleep 20; cat {path}", cache_dir=str(tmp_path / "cache")
    )
    steps = loader.steps(0)
    with pytest.raises(DataError, match="no micro-batch arrived in 3 s"):
        next(steps)
    assert not [process for process in torch.multiprocessing.active_children() if process.is_alive()]


def test_a_pipe_in_a_shards_place_is_an_error(tmp_path):
    """Opening a named pipe would wait for its writer; it is a shard that cannot be read, as any other."""
    corpus = write_corpus(tmp_path, [16])
    loader = make_loader(corpus)
    (tmp_path / "shard_00000.tar").unlink()
    os.mkfifo(tmp_path / "shard_00000.tar")
    with pytest.raises(DataError, match="cannot be used: shard_unreadable"):
        next(loader.steps(0))


def test_a_killed_worker_is_an_error_that_names_the_kill(corpus):
    """As the kernel does when memory runs out: worth another try. A crash in native code or SIGBUS, which the next try
    meets again, is not."""
    for number, error, message in (
        (signal.SIGKILL, ProcessKilledError, "a data worker was killed"),
        (signal.SIGBUS, DataError, "found no shared memory in /dev/shm: SIGBUS ended it"),
        (signal.SIGSEGV, DataError, "ended by SIGSEGV"),
    ):
        steps = make_loader(corpus, num_workers=1).steps(0)
        next(steps)
        (worker,) = torch.multiprocessing.active_children()
        assert worker.pid is not None
        os.kill(worker.pid, number)
        with pytest.raises(error, match=message) as raised:
            list(itertools.islice(steps, 20))
        assert "data.num_workers" in raised.value.hint


def test_a_killed_fork_server_is_worth_another_try(corpus):
    """While workers run; between two iterations a new one is started."""
    loader = make_loader(corpus, num_workers=1)
    steps = loader.steps(0)
    next(steps)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
    with pytest.raises(ProcessKilledError, match="the server that data workers are forked from was killed"):
        list(itertools.islice(steps, 40))
    again = make_loader(corpus, num_workers=1)
    os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
    assert [step.step for step in itertools.islice(again.steps(0), 2)] == [0, 1]


def test_a_bug_is_not_a_bad_sample(corpus):
    """Any error that is not a named fault of the data comes up as it is, from a worker too."""
    broken = AugmentConfig(crop_scale_min="wide")  # type: ignore[arg-type]
    for num_workers in (0, 1):
        with pytest.raises(TypeError):
            play(make_loader(corpus, num_workers=num_workers, augment=broken), 0, 1)


def test_a_corpus_smaller_than_a_global_batch_is_refused(corpus):
    """With both numbers, before any worker starts."""
    with pytest.raises(DataError, match="47 samples, fewer than one global batch of 48"):
        make_loader(corpus, num_lanes=6, micro_batch_size=8)


TRAINER = """
import signal, sys, time
from multiprocessing import active_children
from pathlib import Path
from tests.pipeline.data.test_loader import make_loader
signal.signal(signal.SIGUSR1, lambda *_: None)
steps = make_loader(Path(sys.argv[1]), num_workers=2).steps(0)
next(steps)
print(*[process.pid for process in active_children()], flush=True)
for _ in range(10_000):
    print(next(steps).step, flush=True)
    time.sleep(0.02)
"""


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_workers_ignore_a_schedulers_signals_and_die_with_their_trainer(corpus):
    """USR1 to every process of the job, as Slurm sends it: steps continue. The trainer killed: no worker is left."""
    trainer = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", TRAINER, str(corpus)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    try:
        assert trainer.stdout is not None
        workers = [int(pid) for pid in trainer.stdout.readline().split()]
        assert len(workers) == 2
        os.killpg(trainer.pid, signal.SIGUSR1)
        last = [int(trainer.stdout.readline()) for _ in range(30)][-1]
        assert last == 30 and all(alive(pid) for pid in workers)
    finally:
        trainer.kill()
        trainer.wait()
    deadline = time.monotonic() + 20
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if alive(pid)]
