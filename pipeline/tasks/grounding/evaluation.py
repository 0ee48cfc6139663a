"""Where a model's maps point, against the true boxes: exact on any number of ranks, each entry once.

The work is divided in blocks of fixed size and order, so a block is computed with the same padding, and so to the same
bits, on any number of ranks.
"""

# N entries, B entries of a block, G x G cells of a map

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from albef.config import AlbefConfig
from albef.downstream.retrieval import AlbefForRetrieval
from albef.errors import CheckpointError, DataError
from albef.grounding import boxes
from albef.grounding.boxes import IOU_AT_LEAST, Box, iou
from albef.grounding.phrases import By, phrase_maps
from albef.inputs.preprocess import preprocess_image
from albef.inputs.tokenizer import AlbefTokenizer
from albef.model import AlbefForPretraining
from pipeline.data.annotations.corpus import AnnotationCorpus
from pipeline.data.image_blocks import loaded_blocks
from pipeline.engine.distributed import World
from pipeline.task import Progress
from pipeline.tasks.finetuning.entry_image import entry_pictures
from samples.captions import clean_caption
from samples.quote import quote

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class GroundingSet:
    """Phrases and the boxes they refer to, on the host; images are loaded when they are needed."""

    corpus: AnnotationCorpus
    rows: Sequence[Mapping[str, Any]]
    """(N,) as `annotations.reference_of` makes them."""
    input_ids: Tensor
    """(N, L)"""
    attention_mask: Tensor
    """(N, L)"""
    proposals: Mapping[str, Sequence[Box]] | None
    """Boxes by `image_id`; None takes the box of the map itself."""

    @classmethod
    def of_corpus(
        cls,
        corpus: AnnotationCorpus,
        proposals: Mapping[str, Sequence[Box]] | None,
        *,
        model: AlbefConfig,
        tokenizer: AlbefTokenizer,
        max_words: int,
        max_text_tokens: int,
    ) -> GroundingSet:
        """Every entry of lists in `annotations.REFERENCES`.

        Raises: DataError when no image of the lists has a proposal, as in the proposals of another data set.
        """
        rows = [ref.fields()[1] for ref in corpus.locate(np.arange(corpus.num_samples))]
        if proposals is not None:
            without = sum(not proposals.get(row["image_id"] or "") for row in rows)
            if without == len(rows):
                named, first = repr(rows[0]["image_id"]), repr(next(iter(proposals), None))
                raise DataError(
                    f"no image of {quote(', '.join(corpus.paths))} has a proposal: entry 0 has the image_id "
                    f"{quote(named)}, the first proposals are of {quote(first)}",
                    "give the proposals of this data set, and entries with image_id",
                )
            if without:
                log.warning(
                    "%d of %d entries are of images without a proposal: they count as wrong", without, len(rows)
                )
        input_ids, attention_mask = tokenizer(
            [clean_caption(row["text"], max_words=max_words) for row in rows],
            max_length=min(max_text_tokens, model.max_text_positions),
        )
        return cls(corpus=corpus, rows=rows, input_ids=input_ids, attention_mask=attention_mask, proposals=proposals)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, kw_only=True)
class Pointed:
    """Where one phrase's map points."""

    box: Box | None
    """The chosen one; None for an image without a proposal."""
    overlap: float
    """With the true box."""
    hits: bool
    """Whether the map's hottest pixel lies in the true box."""
    share: float
    """Of the image that the true box covers: the chance of a random pixel."""
    right_proposals: tuple[int, int] | None
    """How many of the proposals would be right, and how many there are; None without a detector."""

    @property
    def is_right(self) -> bool:
        """Whether the chosen box is."""
        return self.overlap >= IOU_AT_LEAST


def point(heat: Tensor, true_box: Box, size: tuple[int, int], proposals: Sequence[Box] | None) -> Pointed:
    """Choose the box of a map.

    Args:
        heat: (G, G), >= 0.
        size: width and height of the image, pixels.
        proposals: None takes the box of the map itself.
    """
    pixels = boxes.at_image_size(heat, *size)
    box: Box | None = None
    if proposals is None:
        box = boxes.box_of_map(heat, *size)
    elif proposals:
        box = proposals[boxes.best_box(pixels, proposals)]
    right = None
    if proposals is not None:
        right = sum(iou(true_box, one) >= IOU_AT_LEAST for one in proposals), len(proposals)
    return Pointed(
        box=box,
        overlap=0.0 if box is None else iou(true_box, box),
        hits=boxes.holds_pixel(true_box, boxes.hottest_pixel(pixels)),
        share=true_box[2] * true_box[3] / (size[0] * size[1]),
        right_proposals=right,
    )


def metrics(found: Sequence[Pointed], splits: Sequence[str | None]) -> dict[str, float]:
    """Percent of boxes that are right and of hottest pixels that hit, in all and by split, with what chance gives.

    `reachable`, with a detector: the entries of which some proposal is right; no choice scores more.
    """
    values = _shares(found, "")
    for split in dict.fromkeys(splits):
        if split is not None:
            of_split = [one for one, its in zip(found, splits, strict=True) if its == split]
            values |= _shares(of_split, f"_{split}")
    values["chance_pointing"] = _percent([one.share for one in found])
    counts = [one.right_proposals for one in found if one.right_proposals is not None]
    if counts:
        values["chance_accuracy"] = _percent([right / max(1, of) for right, of in counts])
        values["reachable"] = _percent([right > 0 for right, _ in counts])
    return values


def _shares(found: Sequence[Pointed], ending: str) -> dict[str, float]:
    return {
        f"accuracy{ending}": _percent([one.is_right for one in found]),
        f"pointing{ending}": _percent([one.hits for one in found]),
    }


def _percent(values: Sequence[float]) -> float:
    return 100.0 * sum(values) / len(values)


def ground_all(
    model: AlbefForPretraining | AlbefForRetrieval,
    data: GroundingSet,
    *,
    by: By,
    layer: int | None,
    world: World,
    batch_size: int,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> list[Pointed]:
    """Ground every entry, in their order; a collective, to be called on all ranks with equal arguments.

    Args:
        model: on `world.device`.
        by, layer: as in `albef.grounding.phrases.phrase_maps`.
        batch_size: entries of a block.

    Raises: DataError when an image cannot be read, or is of another size than its entry gives; CheckpointError when the
        maps are not finite.
    """
    blocks = [range(start, min(start + batch_size, len(data))) for start in range(0, len(data), batch_size)]
    mine = blocks[world.rank :: world.size]
    sizes: dict[int, tuple[int, int]] = {}

    def load(index: int) -> Tensor:
        (picture,) = entry_pictures(data.corpus, index)
        size = data.rows[index]["size"]
        if size is not None and tuple(size) != picture.size:
            raise DataError(
                f"entry {index} is of an image of {size[0]} x {size[1]} pixels, its image has {picture.size}",
                "give the images at the size that the boxes are of",
            )
        sizes[index] = picture.size
        return preprocess_image(picture, model.config.image_size)

    found: dict[int, Pointed] = {}
    for number, (block, images) in enumerate(loaded_blocks(load, mine, num_workers)):
        rows = slice(block.start, block.stop)
        length = int(data.attention_mask[rows].sum(1).max())  # no longer than the longest of the block
        ids, mask = (tensor[rows, :length].to(world.device) for tensor in (data.input_ids, data.attention_mask))
        maps = phrase_maps(model, images.to(world.device), ids, mask, by=by, layer=layer).float().cpu()
        if not bool(maps.isfinite().all()):
            raise CheckpointError(
                "the model's maps are not finite",
                "its weights are damaged, or training diverged: use an earlier checkpoint",
            )
        for index, heat in zip(block, maps, strict=True):
            row = data.rows[index]
            proposals = None if data.proposals is None else data.proposals.get(row["image_id"] or "", [])
            found[index] = point(heat, row["box"], sizes.pop(index), proposals)
        if progress is not None:
            progress("ground", number + 1, len(mine))
    together = {index: one for of_rank in world.gather_objects(found) for index, one in of_rank.items()}
    assert len(together) == len(data), (len(together), len(data))
    return [together[index] for index in range(len(data))]
