"""TensorBoard pictures: training samples as the model sees them, and the teacher's pseudo-targets beside the truth.

The second is the paper's figure 2, live: what the momentum teacher thinks an image could also be called, and which
words it would put in a gap. Drawn with Pillow and its own font.
"""

# B batch, Q queue, N masked tokens, V vocabulary

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from albef.inputs.batch import PretrainBatch, TeacherTargets
from albef.inputs.preprocess import MEAN, STD
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.run.markdown import as_text
from samples.quote import quote

TILE = 192
"""Side of a picture, pixels."""
PAD = 8
LINE = 16
FONT_SIZE = 13
TEXT_WIDTH = 360
"""Room for the text beside a picture, pixels."""
MAX_TEXT = 200
"""Letters of a caption that are drawn."""
BLACK, GREY, GREEN = (0, 0, 0), (110, 110, 110), (0, 120, 0)


@dataclass(frozen=True)
class ItcTarget:
    """The teacher's soft targets for one image."""

    sample: int
    truth: str
    candidates: list[tuple[str, float]]
    """The batch's most probable captions with their probabilities."""
    queue_share: float
    """Probability the teacher gives to texts in the queue, whose captions are not kept."""


@dataclass(frozen=True)
class MlmTarget:
    """The teacher's soft targets for one masked word."""

    sample: int
    text: str
    """The caption with the masked word in brackets."""
    truth: str
    candidates: list[tuple[str, float]]


def training_pictures(
    batch: PretrainBatch,
    targets: TeacherTargets,
    itc: Tensor | None,
    tokenizer: AlbefTokenizer,
    *,
    num_samples: int = 8,
    num_targets: int = 4,
) -> dict[str, np.ndarray]:
    """Tag -> picture, (H, W, 3) uint8.

    `train/samples`: images as augmented, with their captions. `train/itc_pseudo_targets` and
    `train/mlm_pseudo_targets`: the teacher's most probable captions and words beside the true ones.

    Args:
        batch: a micro-batch; captions are taken from it, or from its tokens when it carries none.
        targets: the teacher's, of the same batch. What it was not asked for (distillation off) gives no picture.
        itc: (B, B) the teacher's probabilities of the batch's texts for each image; None when ITC does not distill.
        num_samples, num_targets: how many of the batch to show.
    """
    captions = _captions(batch, tokenizer)[: min(num_samples, len(batch.image))]
    itc_shown = itc_targets(batch, itc, tokenizer, num_targets)
    mlm = mlm_targets(batch, targets, tokenizer, num_targets)
    # Short captions often have no masked word, so the samples of mlm may lie anywhere in the batch.
    wanted = sorted({*range(len(captions)), *(one.sample for one in itc_shown), *(word.sample for word in mlm)})
    images = dict(zip(wanted, _pixels(batch.image[wanted]), strict=True))
    tiles = [_tile(images[sample], [(caption, BLACK)]) for sample, caption in enumerate(captions)]
    pictures = {"train/samples": _grid(tiles, columns=4)}
    rows = {
        "train/itc_pseudo_targets": [_row(images[target.sample], _itc_lines(target)) for target in itc_shown],
        "train/mlm_pseudo_targets": [_row(images[target.sample], _mlm_lines(target)) for target in mlm],
    }
    pictures |= {tag: _grid(tiles, columns=1) for tag, tiles in rows.items() if tiles}
    return {tag: np.asarray(picture) for tag, picture in pictures.items()}


def training_tables(
    batch: PretrainBatch,
    targets: TeacherTargets,
    itc: Tensor | None,
    tokenizer: AlbefTokenizer,
    *,
    num_targets: int = 4,
) -> dict[str, str]:
    """Tag -> the same pseudo-targets as a markdown table, for TensorBoard's text page. Arguments as above."""
    images = [
        f"| {as_text(image.truth)} | {_choices(image.candidates)} | {image.queue_share:.1%} |"
        for image in itc_targets(batch, itc, tokenizer, num_targets)
    ]
    mlm = [
        f"| {as_text(word.text)} | {as_text(word.truth)} | {_choices(word.candidates)} |"
        for word in mlm_targets(batch, targets, tokenizer, num_targets)
    ]
    tables = {
        "train/itc_pseudo_targets": ("| caption | the teacher's choice in this batch | in the queue |", images),
        "train/mlm_pseudo_targets": ("| caption | word | the teacher's choice |", mlm),
    }
    return {tag: "\n".join([head, "|---|---|---|", *rows]) for tag, (head, rows) in tables.items() if rows}


def itc_targets(
    batch: PretrainBatch, itc: Tensor | None, tokenizer: AlbefTokenizer, num_targets: int, *, top: int = 5
) -> list[ItcTarget]:
    """The teacher's most probable captions for the first images of the batch.

    Of the B+Q candidates only the batch's B have captions. The queue keeps features only, so its share is a number:
    what the (B, B) probabilities `itc` leave of 1.
    """
    if itc is None:
        return []
    captions = _captions(batch, tokenizer)
    probabilities = itc[:num_targets].float().cpu()  # (n, B)
    best, which = probabilities.topk(min(top, len(captions)), dim=1)
    return [
        ItcTarget(
            sample=row,
            truth=captions[row],
            candidates=[(captions[i], p) for i, p in zip(which[row].tolist(), best[row].tolist(), strict=True)],
            queue_share=max(0.0, 1 - float(probabilities[row].sum())),  # rounding may leave less than nothing
        )
        for row in range(len(probabilities))
    ]


def mlm_targets(
    batch: PretrainBatch, targets: TeacherTargets, tokenizer: AlbefTokenizer, num_targets: int, *, top: int = 5
) -> list[MlmTarget]:
    """The teacher's most probable words at the first masked position of the first samples that have one.

    Computed here, for these rows alone, with the teacher's word embeddings as they are now: after a step they are one
    update of the average younger than the states.
    """
    if targets.mlm_logits is None or not len(batch.mlm_positions):
        return []
    length = batch.input_ids.shape[1]
    found: dict[int, int] = {}
    rows = zip(batch.mlm_positions.tolist(), batch.mlm_labels.tolist(), strict=True)
    for masked, (position, label) in enumerate(rows):
        if label >= 0:
            found.setdefault(position // length, masked)
    chosen = sorted(found.items())[:num_targets]
    logits = targets.mlm_logits
    states = logits.states[[masked for _, masked in chosen]]
    probabilities = logits._replace(states=states).whole().float().softmax(dim=1).cpu()  # (n, V)
    best, which = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
    ids, lengths = batch.input_ids.cpu(), batch.attention_mask.sum(1).tolist()
    shown = []
    for row, (sample, masked) in enumerate(chosen):
        place = int(batch.mlm_positions[masked]) % length
        before, after = ids[sample, 1:place], ids[sample, place + 1 : lengths[sample]]
        truth = tokenizer.pieces(batch.mlm_labels[masked : masked + 1])[0]
        text = f"{tokenizer.decode(before)} [{truth}] {tokenizer.decode(after)}".strip()
        words = zip(tokenizer.pieces(which[row]), best[row].tolist(), strict=True)
        shown.append(MlmTarget(sample=sample, text=text, truth=truth, candidates=list(words)))
    return shown


def _captions(batch: PretrainBatch, tokenizer: AlbefTokenizer) -> list[str]:
    captions = batch.captions
    if not captions:
        rows = zip(batch.input_ids.cpu(), batch.attention_mask.sum(1).tolist(), strict=True)
        captions = [tokenizer.decode(ids[1:length]) for ids, length in rows]  # without [CLS]
    # On one line: Pillow cannot measure several, and a caption may be a megabyte.
    return [quote(" ".join(caption[: 10 * MAX_TEXT].split()), MAX_TEXT) for caption in captions]


def _pixels(images: Tensor) -> list[Image.Image]:
    """(n, 3, H, W) normalised to pictures of TILE pixels."""
    pixels = images.detach().float().cpu()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    rounded = ((pixels * std + mean) * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)  # (n, H, W, 3)
    return [Image.fromarray(one).resize((TILE, TILE), Image.Resampling.BICUBIC) for one in rounded.contiguous().numpy()]


Line = tuple[str, tuple[int, int, int]]


def _itc_lines(target: ItcTarget) -> list[Line]:
    lines = [(f"truth: {target.truth}", GREEN)]
    lines += [(f"{p:6.1%}  {caption}", GREEN if caption == target.truth else BLACK) for caption, p in target.candidates]
    return [*lines, (f"{target.queue_share:6.1%}  texts in the queue (captions not kept)", GREY)]


def _mlm_lines(target: MlmTarget) -> list[Line]:
    return [(target.text, BLACK)] + [
        (f"{p:6.1%}  {word}", GREEN if word == target.truth else BLACK) for word, p in target.candidates
    ]


def _tile(image: Image.Image, lines: list[Line]) -> Image.Image:
    """The picture with text below it."""
    tile = Image.new("RGB", (TILE, TILE + 5 * LINE), "white")
    tile.paste(image, (0, 0))
    _write(tile, (0, TILE + 2), TILE, lines, most=4)
    return tile


def _row(image: Image.Image, lines: list[Line]) -> Image.Image:
    """The picture with text to its right."""
    row = Image.new("RGB", (TILE + PAD + TEXT_WIDTH, TILE), "white")
    row.paste(image, (0, 0))
    _write(row, (TILE + PAD, 0), TEXT_WIDTH, lines, most=TILE // LINE)
    return row


def _write(canvas: Image.Image, corner: tuple[int, int], width: int, lines: list[Line], *, most: int) -> None:
    """Lines one below the other, each wrapped to at most two, cut at `most` in all."""
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_SIZE)
    wrapped = [
        (part, color)
        for text, color in lines
        for part in _wrap(text, width, draw, font, most if len(lines) == 1 else 2)
    ]
    for number, (part, color) in enumerate(wrapped[:most]):
        draw.text((corner[0], corner[1] + number * LINE), part, fill=color, font=font)


def _wrap(
    text: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, most: int
) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and draw.textlength(longer, font=font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines[:most] if len(lines) <= most else [*lines[: most - 1], lines[most - 1] + " ..."]


def _grid(tiles: list[Image.Image], *, columns: int) -> Image.Image:
    columns = max(1, min(columns, len(tiles)))
    rows = -(-len(tiles) // columns)
    width, height = tiles[0].size
    canvas = Image.new("RGB", (columns * (width + PAD) + PAD, rows * (height + PAD) + PAD), "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        canvas.paste(tile, (PAD + column * (width + PAD), PAD + row * (height + PAD)))
    return canvas


def _choices(candidates: list[tuple[str, float]]) -> str:
    return "<br>".join(f"{p:.1%} {as_text(text)}" for text, p in candidates)
