"""How a run gets its task, and how planning gets its shapes without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.data.corpus.protocol import Corpus
from pipeline.engine.distributed import World
from pipeline.task import Task


@dataclass(frozen=True, kw_only=True)
class TaskMaker:
    """What a folder under `pipeline/tasks/` gives to the commands; the task itself is made when a run is built.

    Its functions take the task's own kind of `RunConfig`.
    """

    corpus: Callable[[Any], Corpus]
    """Reads and checks what the recipe trains on. Raises: DataError, ConfigError."""
    make: Callable[[Any, World, torch.dtype], Task]
    """Makes the task, equal on all ranks, given the type of the engine's arithmetic."""
    batch_module: str
    """Where its batcher is defined: data workers import it once, together, while the model is being built."""
    sketch: Callable[[Any, torch.dtype], Task]
    """Makes the task on the meta device, given the type of the engine's arithmetic: shapes without data or weights."""
    noise: Callable[[Any, int], Any]
    """Makes a micro-batch of that many samples of noise, on the host, as costly as a real one can be."""
    bytes_beside: Callable[[Any], Mapping[str, int]]
    """Bytes on a device of what the task keeps beside the engine, by name, given what `sketch` made."""
    batch_lines: Callable[[Any], Sequence[str]]
    """What `check` prints of the task's batch; empty where there is nothing to add."""
    checks: Callable[[Any], Sequence[Callable[[], object]]]
    """What a start would find out late, without a GPU and without reading weights: each raises its error, if any."""
