"""Grounding during training, on validation phrases with boxes. It changes nothing of the training itself."""

from __future__ import annotations

from pathlib import Path

from albef.evaluation_mode import evaluating
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.run_config import GroundingRun
from pipeline.data.annotations.corpus import read_annotations
from pipeline.engine.distributed import World
from pipeline.task import Progress
from pipeline.tasks.grounding.annotations import REFERENCES
from pipeline.tasks.grounding.evaluation import GroundingSet, ground_all, metrics
from pipeline.tasks.grounding.proposals import read_proposals
from pipeline.tasks.retrieval.evaluation import RetrievalModel
from pipeline.tasks.retrieval.validation import random_state_restored


class GroundingValidator:
    """Holds a run's validation phrases, if it has some; a `pipeline.tasks.retrieval.validation.Scorer`."""

    def __init__(self, run: GroundingRun, world: World, tokenizer: AlbefTokenizer) -> None:
        """Raises: DataError when the lists or the proposals cannot be read, before training starts."""
        config = self._config = run.validation
        self.world = world
        self.data = None
        if config.annotations:
            section = "validation" if config.images else "data"
            self.data = GroundingSet.of_corpus(
                read_annotations(config.annotations, config.images or run.data.images, REFERENCES, section=section),
                None if config.dets is None else read_proposals(Path(config.dets)),
                model=run.model.shape,
                tokenizer=tokenizer,
                max_words=run.data.max_words,
                max_text_tokens=run.objective.max_text_tokens,
            )

    def run(self, model: RetrievalModel, progress: Progress | None = None) -> dict[str, float]:
        """Accuracies and the pointing game under `val/`; empty without phrases. A collective.

        Raises: DataError when an image cannot be decoded; CheckpointError when the model's maps are not finite.
        """
        if self.data is None:
            return {}
        with evaluating(model), random_state_restored(self.world.device):
            found = ground_all(
                model,
                self.data,
                by=self._config.by,
                layer=None,
                world=self.world,
                batch_size=self._config.batch_size,
                num_workers=self._config.num_workers,
                progress=progress,
            )
        values = metrics(found, [row["split"] for row in self.data.rows])
        return {f"val/{name}": value for name, value in values.items() if name.startswith(("accuracy", "pointing"))}
