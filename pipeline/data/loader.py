"""The training data of one rank: worker processes that build its lanes' micro-batches, step after step, without end."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import logging
import math
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver, resource_tracker
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch.utils.data import DataLoader

from albef.batch import PretrainBatch
from albef.config import AlbefConfig
from albef.errors import DataError
from albef.objective import ObjectiveConfig
from albef.tokenizer import AlbefTokenizer
from pipeline.data.bad_samples import BadSamples
from pipeline.data.lane_plan import lane_order, lane_tasks
from pipeline.data.lane_task import STOP_SIGNALS, LaneBuilder, LaneResult, prepare_worker
from pipeline.data.lanes import LaneTask
from pipeline.data.manifest import Manifest
from pipeline.data.mixture import check_weights
from pipeline.data.order import DEFAULT_WINDOW_SHARDS
from pipeline.data.reader import ShardReader
from pipeline.data.shard_cache import ShardCache, shard_cache
from pipeline.data.transforms import AugmentConfig

log = logging.getLogger(__name__)

POLL_S = 2
"""How often a waiting trainer looks whether its workers live. The fork server's children do not announce their end to
it by a signal, so torch by itself would notice only at the end of its time-out."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What to train on and how to read it. From `num_workers` on, nothing here changes what is trained on."""

    manifests: tuple[str, ...] = ()
    """manifest.parquet files, folders that hold one, or brace patterns of those, on a disk or by URL; together they are
    the corpus, and each entry is a source."""
    weights: tuple[float, ...] | None = None
    """Each source's share of an epoch, in the order of manifests and in any unit: an epoch is then the longest one with
    these shares in which no sample occurs twice, and later epochs take what it left. null: every sample once."""
    shuffle_window_shards: PositiveInt = DEFAULT_WINDOW_SHARDS
    """Neighbouring shards (of an epoch's permutation) whose samples are shuffled together; with weights in each
    source."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """The random changes to the images."""
    max_caption_words: PositiveInt = 30
    """Captions are cut to this many words before the tokenizer cuts them to tokens."""
    num_workers: NonNegativeInt = 4
    """Processes that read and decode, for each rank; 0 does it in the training process."""
    prefetch: PositiveInt = 2
    """Micro-batches each worker prepares ahead."""
    max_failures_in_a_row: PositiveInt = 100
    """So many replaced samples one after another (in a rank's order) end the run with an error."""
    timeout_s: NonNegativeInt = 900
    """A micro-batch that takes longer than this ends the run (a hung mount); 0 waits for ever. Needs workers."""
    shard_opener: str | None = None
    """For stores that cannot be read by ranges: what webdataset opens to stream a whole shard, with {path} for its path
    or URL and {name} for its last part, as `pipe:ssh store cat {path}`. null: read by ranges."""
    cache_dir: str | None = None
    """With shard_opener: the folder, on each machine's own disk, that shards are streamed into and read from."""
    cache_gib: PositiveFloat = 64.0
    """With shard_opener: room for shards in cache_dir; the one used longest ago goes first."""

    def __post_init__(self) -> None:
        if self.weights is not None:
            check_weights(self.weights, len(self.manifests))


@dataclass(kw_only=True)
class StepBatches:
    """What this rank trains on in one global step."""

    step: int
    """Global step, counted from 0 over all epochs."""
    epoch: int
    lanes: list[PretrainBatch]
    """One micro-batch for each of this rank's lanes, in lane order."""
    skipped: dict[str, int]
    """Samples of these lanes that were replaced, by reason."""


class PretrainLoader:
    """Micro-batches by (seed, epoch, step, lane): the same whatever the world size and the number of workers.

    Workers are started by a fork server. Forking the trainer itself is not safe: it runs threads (CUDA, gloo or NCCL,
    TensorBoard) whose locks a fork copies in whatever state they are. Spawning is, but imports torch once per worker.
    The server imports it once, and its children share the memory. They are started with the signals of a scheduler
    blocked (see `prepare_worker`), live until `close`, and pass from epoch to epoch without a pause.

    Args:
        manifest: the corpus.
        data: how to read it.
        model: image size, special tokens.
        objective: length of texts, mask probability.
        tokenizer: captions to ids.
        seed: the run's seed.
        micro_batch_size: b, samples in a lane's step.
        num_lanes: M; the global batch is M * b.
        lanes: the lanes of this rank.
        pin_memory: hand out page-locked tensors (ignored without CUDA).

    Raises: DataError when the corpus is smaller than one global batch; ConfigError when weights or the keys of the
        shard cache do not fit.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        data: DataConfig,
        model: AlbefConfig,
        objective: ObjectiveConfig,
        tokenizer: AlbefTokenizer,
        seed: int,
        micro_batch_size: int,
        num_lanes: int,
        lanes: range,
        pin_memory: bool = False,
    ) -> None:
        assert lanes and lanes[0] >= 0 and lanes[-1] < num_lanes, (lanes, num_lanes)
        self.manifest, self.data, self.lanes = manifest, data, lanes
        self.order = lane_order(
            manifest,
            seed=seed,
            window_shards=data.shuffle_window_shards,
            weights=data.weights,
            micro_batch_size=micro_batch_size,
            num_lanes=num_lanes,
        )
        cache = cache_of(data, manifest)
        if cache is not None:
            log.info("%s", cache.cost)
        self._builder = LaneBuilder(
            model=model,
            objective=objective,
            augment=data.augment,
            max_caption_words=data.max_caption_words,
            tokenizer=tokenizer,
            seed=seed,
            reader=ShardReader(cache=cache),
        )
        self._pin_memory = pin_memory and torch.cuda.is_available()
        self._bad_samples = BadSamples(data.max_failures_in_a_row)
        self._running: Generator[StepBatches, None, None] | None = None
        self._workers = _Workers()
        if data.num_workers:
            # It takes seconds to import torch: let that happen while the trainer builds its model.
            _start_fork_server()

    @property
    def steps_per_epoch(self) -> int:
        """Global steps in an epoch; `order.remainder` samples of each epoch are left out."""
        return self.order.steps_per_epoch

    def steps(self, start_step: int = 0) -> Iterator[StepBatches]:
        """Global steps from `start_step` on, for ever. One such iteration at a time: a new one ends the one before.

        Starting at a late step costs what starting at step 0 costs: nothing before it is read or replayed.

        Raises (while iterating): DataError when samples fail in a row, or a worker dies or hangs.
        """
        self.close()
        self._running = self._steps(start_step)
        return self._running

    def close(self) -> None:
        """Stop the workers. The loader can be started again with `steps`."""
        if self._running is not None:
            self._running.close()
            self._running = None
        self._workers.stop()

    def _steps(self, start_step: int) -> Generator[StepBatches, None, None]:
        tasks = lane_tasks(self.manifest, self.order, self.lanes, start_step)
        self._workers.start(self._builder, tasks, self.data, self._pin_memory)
        try:
            for step in itertools.count(start_step):
                lanes, skipped = [], Counter[str]()
                for _ in self.lanes:
                    result = self._workers.next(self.data.timeout_s)
                    skipped.update(self._bad_samples.watch(result))
                    assert result.batch is not None, "hopeless results have raised"
                    lanes.append(result.batch)
                yield StepBatches(step=step, epoch=self.order.epoch_of(step), lanes=lanes, skipped=dict(skipped))
        finally:
            self._workers.stop()


def cache_of(data: DataConfig, manifest: Manifest) -> ShardCache | None:
    """Where the recipe has shards streamed to; None where they are read by ranges. Raises: see `shard_cache`."""
    return shard_cache(
        data.shard_opener,
        data.cache_dir,
        data.cache_gib,
        shard_bytes={shard.path: shard.num_bytes for shard in manifest.shards},
        shards_at_once=data.shuffle_window_shards * (len(data.weights) if data.weights else 1),
    )


class _Workers:
    """The worker processes of one iteration; `stop` leaves none of them behind."""

    def __init__(self) -> None:
        self._iterator: Any = None

    def start(self, builder: LaneBuilder, tasks: Iterator[LaneTask], data: DataConfig, pin_memory: bool) -> None:
        several = data.num_workers > 0
        loader: DataLoader = DataLoader(
            builder,
            batch_size=None,
            sampler=tasks,  # any iterable of indices will do, also an endless one
            num_workers=data.num_workers,
            prefetch_factor=data.prefetch if several else None,
            timeout=POLL_S if several else 0,
            pin_memory=pin_memory,
            collate_fn=_as_it_is,
            worker_init_fn=prepare_worker,
            multiprocessing_context=_start_fork_server() if several else None,
            generator=torch.Generator(),  # or it would draw from the trainer's own generator
        )
        with _blocked_signals():
            self._iterator = iter(loader)
        # Registered last, so run first: before multiprocessing joins workers that are deaf to its SIGTERM.
        atexit.register(self.stop)

    def next(self, timeout_s: float) -> LaneResult:
        """The result of the next task, in the tasks' order.

        Raises: DataError when a worker died, or nothing came in timeout_s (0: for ever).
        """
        deadline = time.monotonic() + (timeout_s or math.inf)
        while True:
            try:
                return next(self._iterator)
            except (RuntimeError, EOFError, OSError) as error:
                self._raise_if_a_worker_died(error)
                if "DataLoader timed out" not in str(error):  # torch/utils/data/dataloader.py
                    raise  # a worker's own traceback: a bug
                if time.monotonic() > deadline:
                    raise DataError(
                        f"no micro-batch arrived in {timeout_s:g} s",
                        "a mount hangs, or reading is far too slow: look at the disk, or raise data.timeout_s",
                    ) from error

    def _raise_if_a_worker_died(self, error: Exception) -> None:
        if not isinstance(error, RuntimeError):  # the connection broke: the end of its worker may take a moment
            connection.wait([process.sentinel for process in self._processes()], timeout=5.0)
        exit_codes = [process.exitcode for process in self._processes() if process.exitcode is not None]
        if exit_codes:
            raise DataError(
                f"a data worker died with exit code {exit_codes[0]}",
                "it was killed, most often for memory: use fewer data.num_workers or a smaller data.prefetch, or give "
                "/dev/shm more room",
            ) from error

    def stop(self) -> None:
        atexit.unregister(self.stop)
        processes = self._processes()
        if processes:
            self._iterator._shutdown_workers()
        self._iterator = None
        for process in processes:
            if process.is_alive():  # stuck in a read that does not return
                process.kill()
            process.join()

    def _processes(self) -> list[Any]:
        return getattr(self._iterator, "_workers", [])


def _start_fork_server() -> Any:
    """The fork server's context; the server is started, without waiting for it, unless it runs already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipeline.data.lane_task"])
    with _blocked_signals():
        forkserver.ensure_running()
    return context


@contextlib.contextmanager
def _blocked_signals() -> Iterator[None]:
    """Start processes deaf to the signals of a scheduler; for this process they wait until the end of the block."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # starting the tracker unblocks some
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _as_it_is(result: Any) -> Any:
    return result
