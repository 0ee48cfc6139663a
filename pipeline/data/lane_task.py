"""One lane's micro-batch of one step: how a worker builds it, and what it returns.

Imported in every worker process, so it pulls in no more than building a batch takes (no pyarrow, no DeepSpeed).
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.data.corpus.protocol import SampleReader
from pipeline.data.corpus.reader import BadSample
from pipeline.data.sampling.lanes import LaneTask
from pipeline.task import Batcher

STOP_SIGNALS = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2))
"""What a terminal, a scheduler or an operator sends to every process of a job; only the trainer acts on them."""


@dataclass(slots=True)
class LaneResult:
    """A micro-batch and how reading it went."""

    batch: Any
    """A `pipeline.task.Batch`; None only when `error` is set."""
    reasons: list[str]
    """(B,) why each sample was replaced, empty where it was not; cut short where building stopped."""
    details: list[str]
    """For each replaced sample a line for the log."""
    error: str = ""
    """Set when a sample and all of its replacements could not be used."""

    def __reduce__(self) -> tuple[Any, ...]:
        """On the way from a worker only the images go through shared memory.

        Each tensor there costs a file descriptor and a handshake with the worker (0.4 ms); the others are small.
        """
        if self.batch is None:
            return LaneResult, (None, self.reasons, self.details, self.error)
        small = {
            field.name: value.numpy() if isinstance(value := getattr(self.batch, field.name), Tensor) else value
            for field in dataclasses.fields(self.batch)
            if field.name != "image"
        }
        return _rebuilt, (type(self.batch), self.batch.image, small, self.reasons, self.details)

    def pin_memory(self) -> LaneResult:
        """The same in page-locked memory; called by the DataLoader's pinning thread."""
        return dataclasses.replace(self, batch=self.batch and self.batch.pin_memory())


@dataclass(kw_only=True)
class LaneBuilder(Dataset):
    """Builds micro-batches: a map from LaneTask to LaneResult, the same in every process."""

    batcher: Batcher
    seed: int
    reader: SampleReader

    def __getitem__(self, task: LaneTask) -> LaneResult:
        result = LaneResult(batch=None, reasons=[], details=[])
        examples: list[Any] = []
        for place in range(task.size):
            failures: list[BadSample] = []
            candidates = range(place, len(task.locations), task.size)
            for candidate in candidates:
                try:
                    examples.append(self._example(task, candidate))
                    break
                except BadSample as bad:
                    failures.append(bad)
            result.reasons.append(failures[0].reason if failures else "")
            if len(failures) == len(candidates):
                shards = {task.locations[candidate].path for candidate in candidates}
                result.error = (
                    f"sample {task.locations[place].name} and its {len(failures) - 1} replacements in {len(shards)} "
                    f"shards cannot be used: {failures[0]}"
                )
                return result
            if failures:
                result.details.append(f"{task.locations[place].name} replaced by {examples[-1].name}: {failures[0]}")
        result.batch = self.batcher.batch(examples, seed=self.seed, epoch=task.epoch, step=task.step, lane=task.lane)
        return result

    def _example(self, task: LaneTask, candidate: int) -> Any:
        return self.batcher.example(self.reader.read(task.locations[candidate]), seed=self.seed, epoch=task.epoch)


def _rebuilt(
    kind: type[Any], image: Tensor, small: dict[str, Any], reasons: list[str], details: list[str]
) -> LaneResult:
    values: dict[str, Any] = {n: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for n, v in small.items()}
    return LaneResult(kind(image=image, **values), reasons, details)


def prepare_worker(_: int) -> None:
    """Block every signal that asks this worker to stop, and let it die at once when its trainer is gone.

    Slurm and a terminal signal all processes of a job, and a worker that died of that would end the trainer while it
    saves. torch's own watchdog looks at the parent's process id, which is the fork server's here, and the fork server
    lives as long as one of its children does: after a kill -9 of the trainer all of them would stay.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    threading.Thread(target=_die_with_trainer, name="die-with-trainer", daemon=True).start()


def _die_with_trainer() -> None:
    trainer = multiprocessing.parent_process()
    assert trainer is not None, "runs in workers only"
    trainer.join()
    os.kill(os.getpid(), signal.SIGKILL)
