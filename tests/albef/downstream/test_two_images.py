"""Models of a text with two images: NLVR2's, and how text assignment draws its pairs."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from albef.downstream.alignment import FIRST, NEITHER, SECOND, AlbefForAlignment, draw_pairs
from albef.downstream.nlvr2 import AlbefForNlvr2
from albef.errors import ConfigError
from albef.inputs.alignment_batch import AlignmentBatch
from albef.inputs.nlvr2_batch import Nlvr2Batch
from tests.albef.small import CONFIG

ALPHA = torch.tensor(0.0, dtype=torch.float64)
PLAIN = dataclasses.replace(CONFIG, hidden_dropout=0.0, attention_dropout=0.0)


def texts(size: int, seed: int) -> dict[str, Any]:
    """Ids and mask of random texts of unequal lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, CONFIG.vocab_size, (size, 6), generator=generator)
    mask = (torch.arange(6) < 3 + torch.arange(size)[:, None] % 4).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def images(size: int, seed: int) -> Tensor:
    """Random normalised pixels."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, CONFIG.image_size, CONFIG.image_size, generator=generator)


def test_ten_statements_are_learned_by_heart() -> None:
    """Five pairs of images, each with a true and a false statement: all ten are classified right."""
    torch.manual_seed(0)
    model = AlbefForNlvr2(PLAIN).train()
    left, right = images(5, 1), images(5, 2)
    image = torch.cat([left, left, right, right])
    batch = Nlvr2Batch(image=image, labels=torch.tensor([1] * 5 + [0] * 5), **texts(10, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        output = model(batch, None, ALPHA)
        output.total.backward()
        optimizer.step()
    assert output.accuracy == 1 and output.total < 0.1


def test_ten_texts_are_assigned_by_heart() -> None:
    """Ten texts, each with two images that are drawn once: first, second or neither, all are classified right."""
    torch.manual_seed(0)
    model = AlbefForAlignment(PLAIN).train()
    image, draws = images(10, 1), torch.rand(4, 10, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    draws[0], draws[1] = torch.arange(10) / 10, torch.tensor([0.2, 0.8] * 5)  # 7 have their own, on either side
    batch = AlignmentBatch(image=image, draws=draws, **texts(10, 3))
    pairs = draw_pairs(model.similarities(model.image_encoder(image)), draws)
    assert set(pairs.labels.tolist()) == {FIRST, SECOND, NEITHER}
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        output = model(batch, pairs=pairs)
        output.total.backward()
        optimizer.step()
    assert output.accuracy == 1 and output.total < 0.1


def test_checkpointed_and_dropped_layers_compute_the_same() -> None:
    """Layers computed again in the backward, and the attention that a CPU uses with dropout, at a dropout of nearly 0:
    every gradient stays as it is."""
    gradients = []
    for kind in ("plain", "checkpointed", "dropped"):
        torch.manual_seed(0)
        dropout = 1e-12 if kind == "dropped" else 0.0
        model = AlbefForNlvr2(dataclasses.replace(PLAIN, attention_dropout=dropout)).double().train()
        if kind == "checkpointed":
            model.checkpoint_activations()
        batch = Nlvr2Batch(image=images(6, 1).double(), labels=torch.tensor([0, 1, 1]), **texts(3, 2))
        loss = model(batch, None, ALPHA).total
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for other in gradients[1:]:
        for (name, _), one, two in zip(model.named_parameters(), gradients[0], other, strict=True):
            assert torch.allclose(one, two, rtol=1e-9, atol=1e-12), name


def test_a_pair_given_by_indices_is_the_pair_itself() -> None:
    """Images that are named, some in several pairs, give the states of the same images in a row."""
    torch.manual_seed(0)
    model = AlbefForNlvr2(PLAIN).double().eval()
    text, image = texts(3, 1), images(4, 2).double()
    first, second = torch.tensor([0, 3, 1]), torch.tensor([2, 0, 1])
    embeds = model.image_encoder(image)
    named = model.fuse_cls(text["input_ids"], text["attention_mask"], embeds, (first, second))
    row = model.fuse_cls(text["input_ids"], text["attention_mask"], embeds[torch.cat([first, second])])
    torch.testing.assert_close(named, row, rtol=1e-10, atol=1e-12)


def test_pairs_are_drawn_as_often_as_the_paper_states() -> None:
    """Two thirds hold the own image, on each side as often, beside one drawn by similarity; a third holds two others.

    The probabilities of all pairs of five images are written out; 3,000 draws are within five standard deviations.
    """
    size, own, repeats = 5, 2, 3_000
    similarity = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = similarity.exp()
    weights[own] = 0
    weights = weights / weights.sum()
    expected = torch.zeros(size, size, 3, dtype=torch.float64)
    for i in range(size):
        if i != own:
            expected[own, i, 0] = expected[i, own, 1] = weights[i] / 3
            for j in {*range(size)} - {i, own}:
                expected[i, j, NEITHER] = weights[i] * weights[j] / (1 - weights[i]) / 3
    assert float(expected.sum()) == pytest.approx(1)
    counts = torch.zeros_like(expected)
    draws = torch.rand(4, repeats, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for draw in draws.unbind(1):
        pairs = draw_pairs(similarity.expand(size, size), draw)
        counts[pairs.first[own], pairs.second[own], pairs.labels[own]] += 1
    shares = counts / repeats
    allowed = 5 * (expected * (1 - expected) / repeats).sqrt()
    assert bool(((shares - expected).abs() <= allowed).all()), shares - expected


def test_text_assignment_learns_and_needs_three_texts() -> None:
    """A step has a loss and gradients in all but the unused weights; two texts are an error that names the number."""
    torch.manual_seed(0)
    model = AlbefForAlignment(PLAIN)
    batch = AlignmentBatch(image=images(4, 1), draws=torch.rand(4, 4, dtype=torch.float64), **texts(4, 2))
    model(batch).total.backward()
    without = {name.split(".")[0] for name, weight in model.named_parameters() if weight.grad is None}
    assert without == {"image_proj", "text_proj", "temperature"}
    two = AlignmentBatch(image=images(2, 1), draws=torch.rand(4, 2, dtype=torch.float64), **texts(2, 2))
    with pytest.raises(ConfigError, match="micro-batch has 2 of them"):
        model(two)
