"""From the corpus to tasks: what each rank's loader sends to its workers, step by step. Imports no torch.

The training loader and `pipeline order` both take their samples from here, so the command prints what the loader takes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from pipeline.data.corpus.protocol import Corpus
from pipeline.data.sampling.epoch_order import LaneOrder
from pipeline.data.sampling.lanes import LaneTask
from pipeline.data.sampling.replacements import replacements


def lane_order(
    corpus: Corpus,
    *,
    seed: int,
    window_shards: int,
    weights: tuple[float, ...] | None,
    micro_batch_size: int,
    num_lanes: int,
) -> LaneOrder:
    """The order of a run over this corpus. Arguments and errors as for LaneOrder."""
    return LaneOrder(
        corpus.shard_sizes,
        seed,
        window_shards,
        micro_batch_size,
        num_lanes,
        source_shards=corpus.source_shards,
        weights=weights,
    )


def lane_tasks(corpus: Corpus, order: LaneOrder, lanes: range, start_step: int) -> Iterator[LaneTask]:
    """One rank's tasks from global step `start_step` on, without end: step by step, its lanes in order.

    Task number n goes to worker n mod num_workers: torch's DataLoader assigns them in turn.
    """
    epoch = order.epoch(order.epoch_of(start_step))
    for step in itertools.count(start_step):
        if order.epoch_of(step) != epoch.epoch:
            epoch = order.epoch(order.epoch_of(step))
        for lane in lanes:
            indices = order.lane(epoch, step, lane)  # (b,)
            with_replacements = np.concatenate([indices[None], replacements(corpus.starts, indices).T])
            locations = corpus.locate(with_replacements.reshape(-1))
            yield LaneTask(step=step, epoch=epoch.epoch, lane=lane, size=len(indices), locations=locations)
