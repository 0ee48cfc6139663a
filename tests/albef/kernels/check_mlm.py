"""The Triton kernels of masked language modelling against float64, at odd sizes and every edge; see test_triton.py."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from albef.kernels import mlm_triton
from albef.kernels.mlm import WordLogits, mlm_token_losses
from tests.albef.kernels.device import DEVICE
from tests.albef.kernels.mlm_cases import Case, check_case, make_case

SHAPES = [(0, 97, 16), (1, 97, 16), (3, 513, 48), (17, 97, 48), (65, 513, 16)]
"""Masked tokens, words, width: none a multiple of a tile."""
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def run(case: Case) -> list[Tensor]:
    """Losses and the gradients of the student's states, words and bias, from the kernels."""
    student = WordLogits(*(factor.to(DEVICE, copy=True).requires_grad_() for factor in case.student))
    teacher = None if case.teacher is None else WordLogits(*(factor.to(DEVICE) for factor in case.teacher))
    losses = mlm_token_losses(student, case.labels.to(DEVICE), teacher, case.alpha, impl="triton")
    losses.backward(case.weights.to(losses))
    return [losses.detach().cpu(), *(factor.grad.cpu() for factor in student if factor.grad is not None)]


@DTYPES
@pytest.mark.parametrize("alpha", [None, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_and_gradients(shape: tuple[int, int, int], alpha: float | None, dtype: torch.dtype) -> None:
    """No further from float64 than plain operations; some rows ignored where there are several."""
    case = make_case(*shape, dtype=dtype, alpha=alpha, ignored=shape[0] in (3, 65))
    check_case(case, run(case))


@DTYPES
@pytest.mark.parametrize("edge", [{"scale": 100.0}, {"scale": 1e-3}, {"alike": True}], ids=str)
def test_extreme_logits_and_rows_alike(edge: dict, dtype: torch.dtype) -> None:
    """Logits of hundreds, flat softmaxes, all rows of one word."""
    case = make_case(17, 513, 48, dtype=dtype, **edge)
    check_case(case, run(case))


def test_ranges_and_splits_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several ranges of the vocabulary, each in one split or in many, equal one range; and the same bits each time."""
    case = make_case(17, 513, 48, ignored=True)
    expected = run(case)
    monkeypatch.setattr(mlm_triton, "RANGE_ELEMENTS", 17 * 128)
    for programs in (1, 4, 264):
        monkeypatch.setattr(mlm_triton, "PROGRAMS", programs)
        found = run(case)
        check_case(case, found)
        assert all(torch.equal(ours, again) for ours, again in zip(found, run(case), strict=True))
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_only_ignored_rows() -> None:
    """Zeros everywhere."""
    case = make_case(5, 97, 16)
    none = run(dataclasses.replace(case, labels=torch.full_like(case.labels, -1)))
    assert not any(tensor.any() for tensor in none)
