"""What pretraining trains on, and what would stop its start: found without a GPU and without reading weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from albef.inputs.tokenizer import AlbefTokenizer
from albef.model import AlbefForPretraining
from albef.weights.initialise import initialise
from pipeline.config.run_config import PretrainingRun
from pipeline.data.corpus.manifest import Manifest, read_manifest
from pipeline.engine.distributed import World
from pipeline.tasks.retrieval.validation import Validator


def corpus(run: PretrainingRun) -> Manifest:
    """The shards, through the cache that the recipe asks for. Raises: DataError, ConfigError."""
    manifest = read_manifest(run.data.manifests, check_shards=run.data.shard_opener is None)
    return manifest.cached(run.data)


def checks(run: PretrainingRun) -> list[Callable[[], object]]:
    """Both files of starting weights, by their headers, and the validation set."""
    alone = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    return [
        lambda: _weights(replace(run, init=replace(run.init, text=None))),
        lambda: _weights(replace(run, init=replace(run.init, image=None))),
        lambda: Validator.of_manifest(run.validation, run.model, AlbefTokenizer(), alone),
    ]


def _weights(run: PretrainingRun) -> None:
    if run.init.image is not None or run.init.text is not None:
        with torch.device("meta"):
            student = AlbefForPretraining(run.model.shape, run.objective)
        initialise(student, run.init)
