"""From raw samples to a micro-batch: the caption, the mask and the draws, each from its own name."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest
import torch

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.tokenizer import AlbefTokenizer
from pipeline.config.sections import AugmentConfig
from pipeline.data.corpus.reader import BadSample, RawSample
from pipeline.tasks.pretraining.collate import Example, collate, mask_draws, training_example
from tests.support.shards import jpeg, picture

TINY = AlbefConfig.tiny(image_size=32)
TOKENIZER = AlbefTokenizer()
JPG = jpeg(picture(0))


def example(captions: list[str], *, name: str = "k", seed: int = 0, epoch: int = 0) -> Example:
    raw = RawSample(name=name, jpg=JPG, captions=captions)
    return training_example(raw, image_size=32, augment=AugmentConfig(), max_words=5, seed=seed, epoch=epoch)


def batch(examples: list[Example], *, seed: int = 0, epoch: int = 0, step: int = 0, lane: int = 0):
    return collate(
        examples,
        model=TINY,
        objective=ObjectiveConfig(max_text_tokens=6),
        tokenizer=TOKENIZER,
        seed=seed,
        epoch=epoch,
        step=step,
        lane=lane,
    )


def test_captions_are_drawn_evenly_among_the_usable_ones():
    """Of four captions, one empty after cleaning: the other three each come up in a third of 900 epochs."""
    captions = ["A Dog!", "?!", "two cats", "one two three four five six seven"]
    counts = Counter(example(captions, epoch=epoch).caption for epoch in range(900))
    assert set(counts) == {"a dog", "two cats", "one two three four five"}
    assert all(abs(count - 300) < 5 * (900 * 2 / 9) ** 0.5 for count in counts.values())


def test_a_sample_without_a_usable_caption_is_bad():
    """Nothing but punctuation, blanks and what nobody sees is an empty caption."""
    with pytest.raises(BadSample) as error:
        example(["", " \t ", "?!", "\u200b", "\ud800"])
    assert error.value.reason == "caption_empty"


def test_a_micro_batch_holds_what_the_step_needs():
    """Shapes, types, texts cut to six tokens with [CLS], labels that are the hidden ids."""
    examples = [example([f"number {n} of a long row of words"], name=f"k{n}") for n in range(5)]
    made = batch(examples)
    assert made.image.shape == (5, 3, 32, 32) and made.image.dtype == torch.uint8
    assert made.input_ids.shape == made.attention_mask.shape == made.mlm_input_ids.shape == (5, 6)
    assert (made.input_ids[:, 0] == TINY.cls_token_id).all()
    assert made.mlm_labels.shape == made.mlm_positions.shape == (16,)
    real = made.mlm_labels >= 0
    assert 0 < real.sum() < 16 and (made.mlm_labels[~real] == -100).all() and not made.mlm_positions[~real].any()
    assert torch.equal(made.mlm_labels[real], made.input_ids.flatten()[made.mlm_positions[real]])
    outside = torch.ones(30, dtype=torch.bool)
    outside[made.mlm_positions[real]] = False
    assert torch.equal(made.mlm_input_ids.flatten()[outside], made.input_ids.flatten()[outside])
    assert made.negative_draws.shape == (2, 5) and made.negative_draws.dtype == torch.float64
    assert made.keys == [f"k{n}" for n in range(5)]
    assert made.captions == [f"number {n} of a long" for n in range(5)]


def test_negatives_depend_on_seed_epoch_step_and_lane():
    """The same four give the same batch for the same texts; changing any one of them changes the draws."""
    examples = [example([f"a row of words number {n}"], name=f"k{n}") for n in range(16)]
    at = {"seed": 1, "epoch": 2, "step": 3, "lane": 4}
    first, again = batch(examples, **at), batch(examples, **at)
    for field in dataclasses.fields(first):
        ours, theirs = getattr(first, field.name), getattr(again, field.name)
        assert torch.equal(ours, theirs) if isinstance(ours, torch.Tensor) else ours == theirs, field.name
    for name in at:
        other = batch(examples, **(at | {name: 9}))
        assert not torch.equal(other.negative_draws, first.negative_draws), name
        assert torch.equal(other.input_ids, first.input_ids)


def test_a_mask_depends_on_seed_epoch_and_sample_only():
    """Another step, lane, place and neighbours, a longer one too: a text is masked as before; not in another epoch."""
    examples = [example([f"a row of words number {n}"], name=f"k{n}") for n in range(16)]
    longer = example(["words that fill up the longest of rows"], name="long")
    first = batch(examples, seed=1, epoch=2, step=3, lane=4).mlm_input_ids
    other = batch([longer, *reversed(examples[8:])], seed=1, epoch=2, step=7, lane=0).mlm_input_ids
    assert torch.equal(other[1:].flip(0)[:, : first.shape[1]], first[8:])
    for changed in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert not torch.equal(batch(examples, **changed).mlm_input_ids, first)
    alike = [dataclasses.replace(examples[0], name=f"k{n}") for n in range(16)]
    assert len({tuple(row) for row in batch(alike, seed=1, epoch=2).mlm_input_ids.tolist()}) > 3


def test_masks_of_samples_are_masks_in_rate():
    """40,000 tokens drawn sample by sample: each of the three draws is uniform and unrelated to the others.

    Five standard deviations: of a mean of n uniforms 1 / sqrt(12 n), of a correlation 1 / sqrt(n).
    """
    draws = mask_draws([f"cc3m-{n:09d}" for n in range(2000)], 20, seed=0, epoch=0).reshape(-1, 3)
    assert draws.dtype == torch.float64 and draws.min() >= 0 and draws.max() < 1
    assert (draws.mean(0) - 0.5).abs().max() < 5 / (12 * 40_000) ** 0.5
    assert (torch.corrcoef(draws.T) - torch.eye(3)).abs().max() < 5 / 40_000**0.5
    assert abs(float((draws[:, 0] < 0.15).double().mean()) - 0.15) < 5 * (0.15 * 0.85 / 40_000) ** 0.5
