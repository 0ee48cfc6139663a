"""Retrieval during training, on validation pairs. It changes nothing of the training itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

from albef.config import AlbefConfig
from albef.evaluation_mode import evaluating
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.sections import ValidationConfig
from pipeline.data.corpus.manifest import read_manifest
from pipeline.engine.distributed import World
from pipeline.task import Progress
from pipeline.tasks.retrieval.annotations import EvaluationPairs, retrieval_set
from pipeline.tasks.retrieval.evaluation import RetrievalModel, RetrievalSet, retrieve


class Scorer(Protocol):
    """Scores a model that is being trained."""

    def run(self, model: RetrievalModel, progress: Progress | None = None) -> dict[str, float]:
        """Values under `val/`, the same on every rank; a collective that leaves the model as it is."""


class Validator:
    """Holds the validation pairs; `run` scores a model on them.

    Args:
        data: the pairs; None where a recipe names none.
        k_test, batch_size, num_workers: see `retrieve`.
    """

    def __init__(
        self, data: RetrievalSet | None, world: World, *, k_test: int, batch_size: int, num_workers: int
    ) -> None:
        self.data, self.world = data, world
        self._k_test, self._batch_size, self._num_workers = k_test, batch_size, num_workers

    @classmethod
    def of_manifest(
        cls, config: ValidationConfig, model: AlbefConfig, tokenizer: AlbefTokenizer, world: World
    ) -> Validator:
        """On pairs of shards; without a manifest there are none.

        Args:
            model: shape of the model. Images are resized to its image_size.

        Raises: DataError when the manifest or a sample's captions cannot be read, before training starts.
        """
        data = None
        if config.manifest is not None:
            pairs = EvaluationPairs.from_manifest(
                read_manifest(config.manifest), config.captions, limit=config.num_images
            )
            data = retrieval_set(pairs, model, tokenizer, max_text_tokens=config.max_text_tokens)
        return cls(data, world, k_test=config.k_test, batch_size=config.batch_size, num_workers=config.num_workers)

    def run(self, model: RetrievalModel, progress: Progress | None = None) -> dict[str, float]:
        """Recalls under `val/`, the same on every rank; empty without pairs. A collective.

        Args:
            model: in any mode and precision. Its modes and every random generator are restored afterwards: a run with
                validation trains like one without.
            progress: called after each block of images or texts.

        Raises: DataError when an image cannot be decoded; CheckpointError when the model's features are not finite.
        """
        if self.data is None:
            return {}
        with evaluating(model), random_state_restored(self.world.device):
            result = retrieve(
                model,
                self.data,
                world=self.world,
                k_test=self._k_test,
                batch_size=self._batch_size,
                num_workers=self._num_workers,
                progress=progress,
            )
        return {f"val/{name}": value for name, value in result.metrics().items() if not name.startswith("chance_")}


@contextmanager
def random_state_restored(device: torch.device) -> Iterator[None]:
    """Restore torch's generators of the CPU and of `device` afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
