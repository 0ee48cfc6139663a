"""Zero-shot retrieval during training, on a few validation pairs. It changes nothing of the training itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from albef.config import AlbefConfig
from albef.evaluation_mode import evaluating
from albef.inputs.tokenizer import AlbefTokenizer
from albef.model import AlbefForPretraining
from pipeline.config.sections import ValidationConfig
from pipeline.data.corpus.manifest import read_manifest
from pipeline.engine.distributed import World
from pipeline.task import Progress
from pipeline.tasks.retrieval.annotations import EvaluationPairs, retrieval_set
from pipeline.tasks.retrieval.evaluation import retrieve


class Validator:
    """Holds the validation pairs; `run` scores a model on them.

    Args:
        config: the pairs, and how retrieval runs on them. Without a manifest there are none.
        model: shape of the model. Images are resized to its image_size.

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
        """Recalls under `val/`, the same on every rank; empty without a manifest. A collective.

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
                k_test=self.config.k_test,
                batch_size=self.config.batch_size,
                num_workers=self.config.num_workers,
                progress=progress,
            )
        return {f"val/{name}": value for name, value in result.metrics().items() if not name.startswith("chance_")}


@contextmanager
def random_state_restored(device: torch.device) -> Iterator[None]:
    """Restore torch's generators of the CPU and of `device` afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield
