"""The training data of one rank: worker processes that build its lanes' micro-batches, step by step, without end."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.config.sections import LoadingConfig
from pipeline.data import shared_memory
from pipeline.data.bad_samples import BadSamples
from pipeline.data.corpus.protocol import Corpus
from pipeline.data.lane_task import LaneBuilder
from pipeline.data.sampling.lane_plan import lane_order, lane_tasks
from pipeline.data.workers import Workers, start_fork_server
from pipeline.task import Batcher


@dataclass(kw_only=True)
class StepBatches:
    """What this rank trains on in one global step."""

    step: int
    """Global step, counted from 0 over all epochs."""
    epoch: int
    lanes: list[Any]
    """One micro-batch for each of this rank's lanes, in lane order."""
    skipped: dict[str, int]
    """Samples of these lanes that were replaced, by reason."""


class TrainingLoader:
    """Micro-batches by (seed, epoch, step, lane): the same for any world size and number of workers.

    Workers (pipeline/data/workers.py) live until `close`, and pass from epoch to epoch without a pause.

    Args:
        corpus: where the samples lie.
        data: how to read it.
        batcher: the task's, which makes a lane's batch of samples.
        seed: the run's seed.
        micro_batch_size: b, samples in a lane's step.
        num_lanes: M; the global batch is M * b.
        lanes: the lanes of this rank.
        images_per_sample: for the bytes that a micro-batch takes.
        pin_memory: hand out page-locked tensors (ignored without CUDA).

    Raises: DataError when the corpus is smaller than one global batch; ConfigError when the weights do not
        fit.
    """

    def __init__(
        self,
        corpus: Corpus,
        *,
        data: LoadingConfig,
        batcher: Batcher,
        seed: int,
        micro_batch_size: int,
        num_lanes: int,
        lanes: range,
        images_per_sample: int = 1,
        pin_memory: bool = False,
    ) -> None:
        assert lanes and lanes[0] >= 0 and lanes[-1] < num_lanes, (lanes, num_lanes)
        self.corpus, self.data, self.lanes = corpus, data, lanes
        self.order = lane_order(
            corpus,
            seed=seed,
            window_shards=data.window_shards,
            weights=data.source_weights,
            micro_batch_size=micro_batch_size,
            num_lanes=num_lanes,
        )
        self._builder = LaneBuilder(batcher=batcher, seed=seed, reader=corpus.reader())
        self._micro_batch_size, self._images_per_sample = micro_batch_size, images_per_sample
        self._pin_memory = pin_memory and torch.cuda.is_available()
        self._bad_samples = BadSamples(data.max_failures_in_a_row)
        self._running: Generator[StepBatches, None, None] | None = None
        self._workers = Workers()
        if data.num_workers:
            # It takes seconds to import torch: let that happen while the trainer builds its model.
            start_fork_server(preload=[type(batcher).__module__])

    @property
    def steps_per_epoch(self) -> int:
        """Global steps in an epoch; `order.remainder` samples of each epoch are left out."""
        return self.order.steps_per_epoch

    @property
    def shared_memory_bytes(self) -> int:
        """The most that this rank's workers use of /dev/shm, in bytes."""
        return shared_memory.needed_bytes(
            num_workers=self.data.num_workers,
            prefetch=self.data.prefetch,
            lanes=len(self.lanes),
            micro_batch_size=self._micro_batch_size,
            image_size=self._builder.batcher.image_size,
            images_per_sample=self._images_per_sample,
        )

    def steps(self, start_step: int = 0) -> Iterator[StepBatches]:
        """Global steps from `start_step` on, without end. One iteration runs at a time: a new one ends the one before.

        A late step costs no more to start at than step 0: nothing before it is read or replayed.

        Raises (while iterating): DataError when samples fail in a row, or reading hangs; and those of `Workers`.
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
        tasks = lane_tasks(self.corpus, self.order, self.lanes, start_step)
        self._workers.start(
            self._builder,
            tasks,
            num_workers=self.data.num_workers,
            prefetch=self.data.prefetch,
            pin_memory=self._pin_memory,
        )
        try:
            for step in itertools.count(start_step):
                lanes, skipped = [], Counter[str]()
                for _ in self.lanes:
                    result = self._workers.next(self.data.timeout_s)
                    skipped.update(self._bad_samples.watch(result))
                    assert result.batch is not None, "`watch` raises for a result with an error"
                    lanes.append(result.batch)
                yield StepBatches(step=step, epoch=self.order.epoch_of(step), lanes=lanes, skipped=dict(skipped))
        finally:
            self._workers.stop()
