"""The plain version of the contrastive loss: float64 to rounding, any chunk, little memory, one compiled graph."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from albef.kernels import itc
from albef.kernels.itc import itc_loss
from tests.albef.kernels.itc_reference import CASES, check_errors, kernel_results, make_case, plain_results
from tests.albef.kernels.live_bytes import LiveBytes


@pytest.mark.parametrize("name", CASES)
def test_errors_are_no_larger_than_written_out(name: str) -> None:
    """As for the Triton version in check_itc.py."""
    check_errors(make_case(**CASES[name]), "torch", "cpu")


@pytest.mark.parametrize("chunk", [1, 7 * 66, 1 << 21])
@pytest.mark.parametrize("name", [name for name in CASES if name != "bf16"])
def test_float64_is_exact_in_any_chunk(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of one candidate, of 7 for 33 rows (the batch ends inside one), and one for all."""
    monkeypatch.setattr(itc, "CHUNK_ELEMENTS", chunk)
    case = make_case(**CASES[name] | {"dtype": torch.float64})
    found = kernel_results(case, "torch")
    for what, truth in plain_results(case).items():
        # 1e-12 of the largest, times what a score of 1 / temperature loses more than one of 14
        close = 1e-12 * max(1.0, float(truth.abs().max())) * max(1.0, 0.07 / case.temperature.item())
        assert (found[what] - truth).abs().max() <= close, what


def test_the_teacher_s_probabilities_come_from_its_log_sum_exp() -> None:
    """What the pictures show: exp(score - lse) of the batch's candidates is their part of the softmax over all."""
    case = make_case(5, 11, 8, dtype=torch.float64)
    assert case.teacher is not None and case.queue is not None
    alpha = torch.tensor(0.4, dtype=torch.float64)
    lse = itc_loss(case.feat, case.keys, case.queue, case.temperature, teacher=case.teacher, alpha=alpha).teacher_lse
    scores = case.teacher @ torch.cat([case.keys, case.queue]).T / case.temperature
    assert lse is not None and not lse.requires_grad
    assert torch.allclose((scores[:, :5] - lse[:, None]).exp(), scores.softmax(dim=1)[:, :5], atol=1e-14)


def test_memory_does_not_grow_with_the_candidates() -> None:
    """At B = 1,024 and a queue of 65,536 forward and backward hold at most 0.05 GB of tensors beside their inputs.

    One matrix of scores would be 0.27 GB. Counted on the meta device; what operations hold inside is not: `logsumexp`
    has a copy of its chunk, 8 MiB.
    """
    size, dim = 1_024, 256

    def feat(rows: int) -> torch.Tensor:
        return torch.zeros(rows, dim, device="meta")

    inputs = (feat(size).requires_grad_(), feat(size), feat(65_536), torch.ones(1, device="meta").requires_grad_())
    teacher, alpha = feat(size), torch.zeros((), dtype=torch.float64, device="meta")
    with LiveBytes() as live:
        itc_loss(*inputs, teacher=teacher, alpha=alpha).rows.mean().backward()
    assert 8 << 20 < live.peak <= 42e6


def test_a_micro_batch_of_four_is_one_chunk_each_way() -> None:
    """Operations of one direction, forward and backward, at the recipe's queue: few, as each is a launch on a GPU."""
    inputs = [F.normalize(torch.randn(rows, 16), dim=1) for rows in (4, 4, 65_536)]
    feat, keys, queue = inputs
    temperature, alpha = torch.tensor([0.07], requires_grad=True), torch.tensor(0.4, dtype=torch.float64)
    feat.requires_grad_()
    with LiveBytes() as live:
        loss = itc_loss(feat, keys, queue, temperature, teacher=keys, alpha=alpha).rows.mean()
        forward = live.operations
        loss.backward()
    assert forward <= 22 and live.operations - forward <= 24
