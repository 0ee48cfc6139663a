"""The pictures of training: pixels as they were, pseudo-targets as the teacher gave them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from albef.inputs.batch import PretrainBatch, TeacherTargets
from albef.inputs.preprocess import preprocess_image
from albef.inputs.tokenizer import AlbefTokenizer
from albef.kernels.mlm import IGNORED, WordLogits
from pipeline.tasks.pretraining.pictures import PAD, TILE, itc_targets, mlm_targets, training_pictures, training_tables

CAPTIONS = ["a dog on a beach", "two cups of coffee", "a red | blue kite"]
COLORS = [(200, 30, 30), (20, 160, 40), (30, 60, 220)]


@pytest.fixture(scope="module")
def tokenizer() -> AlbefTokenizer:
    return AlbefTokenizer()


@pytest.fixture
def step(tokenizer) -> tuple[PretrainBatch, TeacherTargets, torch.Tensor]:
    """Three one-coloured pictures; `dog` and `coffee` masked; a teacher that would rather say `cat` and `coffee`, and
    gives image 0 half its probability in a queue of five."""
    ids, mask = tokenizer(CAPTIONS)
    length = ids.shape[1]
    words = {word: int(tokenizer([word])[0][0, 1]) for word in ("dog", "cat", "coffee", "tea")}
    positions = torch.tensor([2, length + 4])
    assert ids.flatten()[positions].tolist() == [words["dog"], words["coffee"]]
    masked = ids.clone()
    masked.view(-1)[positions] = tokenizer.mask_token_id
    probs = torch.zeros(2, tokenizer.vocab_size)
    probs[0, words["cat"]], probs[0, words["dog"]] = 0.7, 0.3
    probs[1, words["coffee"]], probs[1, words["tea"]] = 0.9, 0.1
    itc = torch.tensor([[0.1, 0.3, 0.1], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # of the batch's texts
    batch = PretrainBatch(
        image=torch.stack([preprocess_image(Image.new("RGB", (50, 40), color), 16) for color in COLORS]),
        input_ids=ids,
        attention_mask=mask,
        mlm_input_ids=masked,
        mlm_positions=positions,
        mlm_labels=ids.flatten()[positions],
        negative_draws=torch.zeros(2, 3, dtype=torch.float64),
        captions=list(CAPTIONS),
    )
    feat = torch.zeros(3, 4)
    logits = WordLogits(torch.eye(2), probs.clamp(min=1e-9).log().T, torch.zeros(tokenizer.vocab_size))
    return batch, TeacherTargets(image_feat=feat, text_feat=feat, mlm_logits=logits), itc


def test_samples_show_the_pixels_that_were_normalised(step, tokenizer):
    """In the middle of each tile its picture's own colour, to the rounding of one step."""
    batch, targets, itc = step
    pictures = training_pictures(batch, targets, itc, tokenizer)
    assert set(pictures) == {"train/samples", "train/itc_pseudo_targets", "train/mlm_pseudo_targets"}
    grid = pictures["train/samples"]
    assert grid.dtype == np.uint8
    assert grid.ndim == 3
    assert grid.shape[2] == 3
    for number, color in enumerate(COLORS):
        pixel = grid[PAD + TILE // 2, PAD + number * (TILE + PAD) + TILE // 2]
        assert np.abs(pixel.astype(int) - color).max() <= 1
    for number in range(3):  # and something is written below each
        below = grid[PAD + TILE :, PAD + number * (TILE + PAD) : number * (TILE + PAD) + TILE]
        assert below.min() < 100


def test_itc_targets_are_the_teachers_best_of_the_batch(step, tokenizer):
    """In descending order with their probabilities; what lies in the queue is shown as one number."""
    batch, _targets, itc = step
    first, second, third = itc_targets(batch, itc, tokenizer, 3)
    assert first.truth == CAPTIONS[0]
    assert first.candidates[0][0] == CAPTIONS[1]
    assert [p for _, p in first.candidates] == pytest.approx([0.3, 0.1, 0.1])
    assert first.queue_share == pytest.approx(0.5)
    assert second.candidates[0] == (CAPTIONS[1], 1.0)
    assert third.queue_share == 0


def test_mlm_targets_are_the_teachers_best_words(step, tokenizer):
    """The gap shown in its caption, the true word, and the teacher's words for it; samples without a gap left out."""
    batch, targets, _itc = step
    first, second = mlm_targets(batch, targets, tokenizer, 3)
    assert (first.sample, first.truth, first.text) == (0, "dog", "a [dog] on a beach")
    assert [word for word, _ in first.candidates[:2]] == ["cat", "dog"]
    assert [p for _, p in first.candidates[:2]] == pytest.approx([0.7, 0.3], rel=1e-4)  # others have 1e-9 each
    assert (second.sample, second.truth, second.text) == (1, "coffee", "two cups of [coffee]")
    assert second.candidates[0][0] == "coffee"


def test_tables_hold_the_same_and_survive_a_bar_in_a_caption(step, tokenizer):
    """Markdown: every row has the header's number of cells."""
    batch, targets, itc = step
    tables = training_tables(batch, targets, itc, tokenizer)
    assert set(tables) == {"train/itc_pseudo_targets", "train/mlm_pseudo_targets"}
    for table in tables.values():
        rows = table.splitlines()
        assert {row.replace("\\|", "").count("|") for row in rows} == {4}
    assert "50.0%" in tables["train/itc_pseudo_targets"]
    assert "70.0% cat" in tables["train/mlm_pseudo_targets"]


def test_a_batch_without_masks_or_captions_can_be_shown(step, tokenizer):
    """No distillation, nothing masked: no such picture. No captions carried: read off the tokens. One sample: fine."""
    batch, targets, itc = step
    off = dataclasses.replace(targets, mlm_logits=None)
    assert "train/mlm_pseudo_targets" not in training_pictures(batch, off, itc, tokenizer)
    assert "train/mlm_pseudo_targets" not in training_tables(batch, off, itc, tokenizer)
    assert set(training_pictures(batch, off, None, tokenizer)) == {"train/samples"}
    assert training_tables(batch, off, None, tokenizer) == {}
    bare = dataclasses.replace(batch, captions=[])
    assert itc_targets(bare, itc, tokenizer, 1)[0].truth == CAPTIONS[0]
    nothing = dataclasses.replace(
        batch, mlm_positions=torch.zeros(0, dtype=torch.int64), mlm_labels=batch.mlm_labels[:0]
    )
    assert mlm_targets(nothing, targets, tokenizer, 3) == []
    small = dataclasses.replace(batch, image=batch.image[:1])
    assert training_pictures(small, off, itc, tokenizer, num_targets=1)["train/samples"].shape[1] == TILE + 2 * PAD


def test_long_and_strange_captions_are_drawn(step, tokenizer):
    """A caption of 200 words, one without spaces, one in another script, an empty one."""
    batch, targets, itc = step
    strange = dataclasses.replace(batch, captions=["word " * 200, "x" * 300, "日本語 \x00 émoji 🙂\ntwo\tlines"])
    picture = training_pictures(strange, targets, itc, tokenizer)["train/itc_pseudo_targets"]
    assert picture.shape == training_pictures(batch, targets, itc, tokenizer)["train/itc_pseudo_targets"].shape
    endless = dataclasses.replace(batch, captions=["\n" * 10**6, "x" * 10**6, "<img src=x>|" * 10**5])
    assert training_pictures(endless, targets, itc, tokenizer)["train/samples"].shape
    for table in training_tables(endless, targets, itc, tokenizer).values():
        assert len(table) < 5_000 and "<img" not in table and "\x1b" not in table
    empty = dataclasses.replace(batch, captions=["", "", ""])
    assert set(training_pictures(empty, targets, itc, tokenizer)) == set(
        training_pictures(batch, targets, itc, tokenizer)
    )


def test_a_masked_word_far_back_in_the_batch_gets_its_own_picture(step, tokenizer):
    """Only the second sample has a masked word and only one sample is shown: its row still has its own colour."""
    batch, targets, itc = step
    batch = dataclasses.replace(batch, mlm_positions=batch.mlm_positions[1:], mlm_labels=batch.mlm_labels[1:])
    logits = targets.mlm_logits._replace(states=targets.mlm_logits.states[1:])
    targets = dataclasses.replace(targets, mlm_logits=logits)
    row = training_pictures(batch, targets, itc, tokenizer, num_samples=1, num_targets=1)["train/mlm_pseudo_targets"]
    assert np.abs(row[PAD + TILE // 2, PAD + TILE // 2].astype(int) - COLORS[1]).max() <= 1


def test_rows_that_fill_the_batch_are_not_shown(step, tokenizer):
    """A row without a label is no masked word: its sample's first one that has a label is shown."""
    batch, targets, _ = step
    batch = dataclasses.replace(batch, mlm_labels=torch.tensor([IGNORED, int(batch.mlm_labels[1])]))
    (only,) = mlm_targets(batch, targets, tokenizer, 3)
    assert (only.sample, only.truth) == (1, "coffee")
