"""A trained model on an annotation file of grounding, for `evaluate`: scores, and the box of every entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from albef.errors import ConfigError
from albef.grounding.boxes import AREA_EXPONENT, IOU_AT_LEAST
from albef.grounding.phrases import By, layer_number
from albef.pretrained import Albef
from pipeline.data.annotations.corpus import read_annotations
from pipeline.engine.distributed import World
from pipeline.run.training_data import compare_with_training
from pipeline.task import Progress
from pipeline.tasks.grounding.annotations import REFERENCES
from pipeline.tasks.grounding.evaluation import GroundingSet, ground_all, metrics
from pipeline.tasks.grounding.proposals import read_proposals

MAX_WORDS = 30
"""As in training (paper's recipe)."""


def evaluate_grounding(
    model: Path,
    annotations: Path,
    images: Sequence[Path],
    dets: Path | None,
    *,
    by: By,
    layer: int | None,
    world: World,
    dtype: torch.dtype,
    batch_size: int,
    num_workers: int | None,
    progress: Progress | None,
) -> dict[str, Any]:
    """Metrics, every switch, and `answers`, on every rank; image size and tokenizer are the model folder's.

    Args:
        dets: a detector's boxes; None takes the boxes of the maps themselves.

    Raises: CheckpointError, DataError; ConfigError for a layer that the model does not have.
    """
    albef = Albef.from_pretrained(model, device=world.device).to(dtype)
    try:
        number = layer_number(albef.config, by, layer)
    except ValueError as error:
        raise ConfigError(f"--block {layer}: {error}", "number the layers from 0") from None
    corpus = read_annotations(
        [str(annotations)], [str(root) for root in images], REFERENCES, section="--annotations, data"
    )
    data = GroundingSet.of_corpus(
        corpus,
        None if dets is None else read_proposals(dets),
        model=albef.config,
        tokenizer=albef.tokenizer,
        max_words=MAX_WORDS,
        max_text_tokens=albef.max_text_tokens,
    )
    found = ground_all(
        albef.model,
        data,
        by=by,
        layer=number,
        world=world,
        batch_size=batch_size,
        num_workers=num_workers,
        progress=progress,
    )
    splits = [row["split"] for row in data.rows]
    return metrics(found, splits) | {
        "num_entries": len(data),
        "splits": dict(Counter(split for split in splits if split is not None)),
        "by": by,
        "layer": number,
        "area_exponent": AREA_EXPONENT,
        "iou_at_least": IOU_AT_LEAST,
        "image_size": albef.config.image_size,
        "max_text_tokens": albef.max_text_tokens,
        "entries_fingerprint": corpus.fingerprint(),
        "trained_on": compare_with_training(albef.training_data, corpus.splits(), corpus.image_names(), world),
        "answers": {
            name: {"ref_id": row["ref_id"], "box": one.box and list(one.box), "iou": one.overlap, "hits": one.hits}
            for name, row, one in zip(corpus.names.to_pylist(), data.rows, found, strict=True)
        },
    }
