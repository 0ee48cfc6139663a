"""The Triton kernels of the contrastive loss against float64, over odd sizes and extreme scores; see test_triton.py."""

from __future__ import annotations

import pytest
import torch

from albef.kernels.itc import itc_loss
from tests.albef.kernels.device import DEVICE
from tests.albef.kernels.itc_reference import CASES, check_errors, kernel_results, make_case, plain_results, plain_rows


@pytest.mark.parametrize("name", CASES)
def test_errors_are_no_larger_than_the_plain_version_s(name: str) -> None:
    """Losses and gradients, each compared with float64 of the same numbers, by its largest error."""
    check_errors(make_case(**CASES[name]), "triton", DEVICE)


def test_splits_of_the_candidates_do_not_show() -> None:
    """One query and 300 candidates: a split for each tile of them, and the same bits each time."""
    case = make_case(1, 300, 8)
    exact = plain_results(case.to(torch.float64))
    found, again = kernel_results(case.on(DEVICE), "triton"), kernel_results(case.on(DEVICE), "triton")
    for what, truth in exact.items():
        assert torch.allclose(found[what], truth, rtol=1e-5, atol=1e-5), what
        assert torch.equal(found[what], again[what]), what


def test_auto_is_plain_torch_beyond_the_kernels_width() -> None:
    """To ask for the kernel with wider features is an error; `auto` computes them all the same."""
    case = make_case(2, 3, 257).on(DEVICE)
    alpha = torch.tensor(0.4, dtype=torch.float64, device=DEVICE)
    arguments = (case.feat, case.keys, case.queue, case.temperature)
    with pytest.raises(RuntimeError, match="257 numbers, more than 256"):
        itc_loss(*arguments, teacher=case.teacher, alpha=alpha, impl="triton")
    rows = itc_loss(*arguments, teacher=case.teacher, alpha=alpha).rows
    assert torch.allclose(rows, plain_rows(case), rtol=1e-5)
