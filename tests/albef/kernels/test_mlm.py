"""Masked language modelling in chunks of the vocabulary: against whole matrices in float64, at every edge."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.flop_counter import FlopCounterMode

from albef.kernels import mlm
from albef.kernels.mlm import WordLogits, mlm_token_losses
from tests.albef.kernels.live_bytes import LiveBytes
from tests.albef.kernels.mlm_cases import Case, check_case, make_case

SHAPES = [(0, 97, 16), (1, 97, 16), (3, 513, 48), (17, 97, 48), (65, 513, 16)]
"""Masked tokens, words, width: none a multiple of a chunk or a tile."""
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


def run(case: Case) -> list[Tensor]:
    """Losses and the gradients of the student's states, words and bias."""
    student = WordLogits(*(factor.clone().requires_grad_() for factor in case.student))
    losses = mlm_token_losses(student, case.labels, case.teacher, case.alpha)
    losses.backward(case.weights.to(losses.dtype))
    return [losses.detach(), *(factor.grad for factor in student if factor.grad is not None)]


@pytest.fixture(params=["one chunk", "chunks"])
def chunks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the vocabulary is one chunk, or several with an uneven last one."""
    if request.param == "chunks":
        monkeypatch.setattr(mlm, "CHUNK_ELEMENTS", 640)
    return request.param


@DTYPES
@pytest.mark.parametrize("alpha", [None, 0.0, 0.4, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses_and_gradients_equal_whole_matrices(
    shape: tuple[int, int, int], alpha: float | None, dtype: torch.dtype, chunks: str
) -> None:
    """With and without a teacher, hard, soft and mixed targets; some rows ignored where there are several."""
    case = make_case(*shape, dtype=dtype, alpha=alpha, ignored=shape[0] in (3, 65))
    check_case(case, run(case))


@DTYPES
@pytest.mark.parametrize("edge", [{"scale": 100.0}, {"scale": 1e-3}, {"alike": True}], ids=str)
def test_extreme_logits_and_rows_alike(edge: dict, dtype: torch.dtype, chunks: str) -> None:
    """Logits of hundreds, where a plain exp overflows; flat softmaxes; all rows of one word."""
    case = make_case(17, 513, 48, dtype=dtype, **edge)
    check_case(case, run(case))


def test_ignored_rows_have_no_loss_and_no_gradient(chunks: str) -> None:
    """Exact zeros in their rows; words and bias get what they get without these rows."""
    case = make_case(9, 97, 16, ignored=True)
    kept = case.labels >= 0
    losses, states, words, bias = run(case)
    assert not losses[~kept].any() and not states[~kept].any() and losses[kept].all()
    assert case.teacher is not None
    fewer = Case(
        case.student._replace(states=case.student.states[kept]),
        case.labels[kept],
        case.teacher._replace(states=case.teacher.states[kept]),
        case.alpha,
        case.weights[kept],
    )
    for ours, theirs in zip((losses[kept], states[kept], words, bias), run(fewer), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    none = run(dataclasses.replace(case, labels=torch.full_like(case.labels, mlm.IGNORED)))
    assert not any(tensor.any() for tensor in none)


def test_alpha_may_be_a_tensor(chunks: str) -> None:
    """A scalar tensor, also of another type, gives the bits of the number."""
    case = make_case(5, 97, 16)
    expected = run(case)
    tensor = dataclasses.replace(case, alpha=torch.tensor(case.alpha))
    wider = dataclasses.replace(case, alpha=torch.tensor(case.alpha, dtype=torch.float64))
    for other in (tensor, wider):
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(run(other), expected, strict=True))


def test_the_teacher_and_alpha_get_no_gradient() -> None:
    """Their tensors may require one elsewhere."""
    case = make_case(5, 97, 16)
    assert case.teacher is not None
    teacher = WordLogits(*(factor.requires_grad_() for factor in case.teacher))
    alpha = torch.tensor(0.4, requires_grad=True)
    student = case.student._replace(states=case.student.states.requires_grad_())
    mlm_token_losses(student, case.labels, teacher, alpha).sum().backward()
    assert student.states.grad is not None and alpha.grad is None
    assert all(factor.grad is None for factor in [*teacher, case.student.words])


def test_a_teacher_that_moves_before_the_backward_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logits are computed again in the backward, so torch must find its weights as they were."""
    monkeypatch.setattr(mlm, "CHUNK_ELEMENTS", 640)
    case = make_case(17, 97, 16)
    assert case.teacher is not None
    student = case.student._replace(states=case.student.states.requires_grad_())
    losses = mlm_token_losses(student, case.labels, case.teacher, 0.4)
    case.teacher.words.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()


def test_compiled_without_a_graph_break(chunks: str) -> None:
    """One graph for any alpha, and the plain call's results to a rounding (the compiler writes `lerp` otherwise)."""
    case = make_case(17, 97, 16, ignored=True)
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(mlm_token_losses, backend=counter, fullgraph=True)
    for alpha in (0.1, 0.2, case.alpha):
        student = WordLogits(*(factor.clone().requires_grad_() for factor in case.student))
        losses = compiled(student, case.labels, case.teacher, torch.tensor(alpha))
        losses.backward(case.weights.float())
    assert counter.frame_count == 1
    found = [losses.detach(), *(factor.grad for factor in student if factor.grad is not None)]
    assert all(torch.allclose(ours, theirs, atol=1e-6) for ours, theirs in zip(found, run(case), strict=True))


def test_no_logits_are_whole_in_memory() -> None:
    """512 masked tokens of the base model's vocabulary: four matrices of one chunk are alive, 34 MB. One whole matrix
    in fp32 has 62 MB."""
    case = make_case(512, 30_522, 64, dtype=torch.bfloat16)
    student = WordLogits(*(factor.requires_grad_() for factor in case.student))
    with LiveBytes() as live:
        losses = mlm_token_losses(student, case.labels, case.teacher, case.alpha)
        losses.backward(case.weights.to(losses.dtype))
    gradients = sum(factor.nbytes for factor in student)
    chunk = 4 * mlm.CHUNK_ELEMENTS
    assert chunk < live.peak - gradients < 4.5 * chunk


def test_planning_counts_what_is_needed_once() -> None:
    """On the meta device: each model's logits, and two products in the backward, however many the chunks."""
    rows, vocabulary, width = 300, 30_522, 32
    with torch.device("meta"):
        student, teacher = (
            WordLogits(torch.empty(rows, width), torch.empty(vocabulary, width), torch.empty(vocabulary)) for _ in "st"
        )
        labels = torch.empty(rows, dtype=torch.int64)
    student.states.requires_grad_()
    with FlopCounterMode(display=False) as counter:
        mlm_token_losses(student, labels, teacher, 0.4).sum().backward()
    assert counter.get_total_flops() == 4 * 2 * rows * vocabulary * width
