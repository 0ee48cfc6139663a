"""Drawing negatives: the right distribution, never the partner, and nothing that can crash a run."""

from __future__ import annotations

import math

import pytest
import torch

from albef.objective.negatives import Negatives, draw_negatives, negative_weights

BELOW_ONE = math.nextafter(1.0, 0.0)


def test_inverse_distribution_by_hand() -> None:
    """Weights 1/6, 2/6, 3/6 of a row turn at 1/6 and 3/6."""
    row = torch.tensor([0.0, math.log(1), math.log(2), math.log(3)], dtype=torch.float64)
    similarity = row.expand(4, 4).clone()
    for uniform, expected in ((0.0, 1), (0.16, 1), (0.17, 2), (0.49, 2), (0.51, 3), (BELOW_ONE, 3)):
        drawn, valid = draw_negatives(similarity, torch.full((4,), uniform, dtype=torch.float64))
        assert drawn[0] == expected and valid.all(), uniform


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("uniform", [0.0, 0.5, BELOW_ONE])
def test_never_the_partner(dtype: torch.dtype, uniform: float) -> None:
    """At both ends of the uniform, in every precision, the diagonal is not drawn; all others can be."""
    generator = torch.Generator().manual_seed(0)
    for size in (2, 3, 64):
        similarity = (torch.randn(size, size, generator=generator) * 20).to(dtype)
        drawn, valid = draw_negatives(similarity, torch.full((size,), uniform, dtype=torch.float64))
        assert valid.all() and (drawn != torch.arange(size)).all()


def test_all_equal_similarities_are_uniform() -> None:
    """Equal weights: a grid of uniforms meets every other column equally often."""
    size = 5
    counts = torch.zeros(size, size)
    for step in range(400):
        drawn, _ = draw_negatives(torch.zeros(size, size), torch.full((size,), (step + 0.5) / 400))
        counts[torch.arange(size), drawn] += 1
    assert torch.equal(counts, torch.full((size, size), 100.0).fill_diagonal_(0))


def test_underflow_does_not_empty_a_row() -> None:
    """The partner outweighs the rest by e^2000: the original's weights are all zero here and its draw raises."""
    similarity = torch.full((3, 3), -1000.0).fill_diagonal_(1000.0)
    similarity[:, 2] = -999.0
    softmax = similarity.softmax(dim=1).fill_diagonal_(0)
    assert softmax[0].sum() == 0  # what the original would draw from
    weights, valid = negative_weights(similarity)
    assert valid.all() and torch.allclose(weights.sum(dim=1), torch.ones(3))
    assert weights[0, 2] / weights[0, 1] == pytest.approx(math.e, rel=1e-5)


def test_batch_of_one_has_a_placeholder_marked_invalid() -> None:
    """There is no other pair: the index can be gathered, and the row does not count."""
    drawn, valid = draw_negatives(torch.tensor([[3.0]]), torch.tensor([0.3]))
    assert drawn.tolist() == [0] and valid.tolist() == [False]


def test_all_ids_equal_leaves_nothing_to_draw() -> None:
    """With every other column excluded the stand-in is the next row, marked invalid; other rows are not affected."""
    allowed = torch.ones(3, 3, dtype=torch.bool)
    allowed[1] = False
    drawn, valid = draw_negatives(torch.zeros(3, 3), torch.full((3,), 0.9), allowed)
    assert valid.tolist() == [True, False, True]
    assert drawn.tolist() == [2, 2, 1]
    everything_equal = torch.zeros(3, 3, dtype=torch.bool)
    drawn, valid = draw_negatives(torch.zeros(3, 3), torch.full((3,), 0.9), everything_equal)
    assert drawn.tolist() == [1, 2, 0] and not valid.any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_entries_that_are_not_finite_are_never_drawn(bad: float) -> None:
    """One bad entry is left out; a row of them is a stand-in; indices stay in range, so no read is out of bounds."""
    similarity = torch.zeros(4, 4)
    similarity[0, 2] = bad
    similarity[1] = bad
    for uniform in (0.0, 0.4, 0.6, BELOW_ONE):
        drawn, valid = draw_negatives(similarity, torch.full((4,), uniform, dtype=torch.float64))
        assert drawn[0] in (1, 3) and valid.tolist() == [True, False, True, True]
        assert ((drawn >= 0) & (drawn < 4)).all()


def test_labels_and_validity_of_the_three_groups() -> None:
    """Pairs first and always counted, then texts with negative images, then images with negative texts."""
    negatives = Negatives(
        image=torch.tensor([1, 0]),
        text=torch.tensor([1, 0]),
        image_valid=torch.tensor([True, False]),
        text_valid=torch.tensor([False, True]),
    )
    assert negatives.labels.tolist() == [1, 1, 0, 0, 0, 0]
    assert negatives.valid is not None and negatives.valid.tolist() == [True, True, True, False, False, True]
    assert Negatives(image=torch.tensor([1, 0]), text=torch.tensor([1, 0])).valid is None
