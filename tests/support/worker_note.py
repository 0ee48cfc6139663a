"""A LaneBuilder that records which worker built a micro-batch. By itself: its module is imported in every worker."""

from __future__ import annotations

from torch.utils.data import get_worker_info

from pipeline.data.lane_task import LaneBuilder, LaneResult
from pipeline.data.sampling.lanes import LaneTask


class WorkerNote(LaneBuilder):
    """Writes the worker's number, or None without workers, in the captions' place."""

    def __getitem__(self, task: LaneTask) -> LaneResult:
        result = super().__getitem__(task)
        assert result.batch is not None
        info = get_worker_info()
        result.batch.captions = [str(None if info is None else info.id)]
        return result
