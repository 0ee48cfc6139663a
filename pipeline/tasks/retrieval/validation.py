"""Zero-shot retrieval during training, on a few validation pairs, without leaving a trace in the training itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from albef.config import AlbefConfig
from albef.inputs.tokenizer import AlbefTokenizer
from albef.model import AlbefForPretraining
from pipeline.config.sections import ValidationConfig
from pipeline.data.corpus.manifest import read_manifest
from pipeline.engine.distributed import World
from pipeline.tasks.retrieval.annotations import EvaluationPairs
from pipeline.tasks.retrieval.evaluation import Progress, retrieve
from pipeline.tasks.retrieval.retrieval_set import retrieval_set


class Validator:
    """Holds the validation pairs; `run` scores a model on them.

    Args:
        config: what to validate on.
        model: shape of the model: images are resized to its image_size.

    Raises: DataError when the manifest or a sample's captions cannot be read, before training starts.
    """

    def __init__(self, config: ValidationConfig, model: AlbefConfig, tokenizer: AlbefTokenizer, world: World) -> None:
        self.config, self.world = config, world
        self.data = None
        if config.manifest is not None:
            pairs = EvaluationPairs.from_manifest(
                read_manifest(config.manifest), config.captions, limit=config.num_images
            )
            self.data = retrieval_set(pairs, model, tokenizer, max_text_tokens=config.max_text_tokens)

    def run(self, model: AlbefForPretraining, progress: Progress | None = None) -> dict[str, float]:
        """Recalls under `val/`, on every rank alike; empty without a manifest. A collective.

        Args:
            model: the student (`engine.module`), in any mode and precision. It stays as it is, and so does every random
                generator: a run with validation trains like one without.
            progress: called with the share that is done.

        Raises: DataError when an image cannot be decoded; CheckpointError when the model's features are not finite.
        """
        if self.data is None:
            return {}
        with evaluating(model), random_state_kept(self.world.device):
            result = retrieve(
                model,
                self.data,
                world=self.world,
                k_test=self.config.k_test,
                batch_size=self.config.batch_size,
                num_workers=self.config.num_workers,
                progress=progress,
            )
        recalls = {name: value for name, value in result.metrics().items() if not name.startswith("chance_")}
        return {f"val/{name}": value for name, value in recalls.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in eval mode; afterwards each of its modules in the mode it was found in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """torch's generators of the CPU and of `device` afterwards as they were before."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
