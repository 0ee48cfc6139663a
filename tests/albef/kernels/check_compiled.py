"""The Triton kernels as operations of a compiled graph: the same bits as called one by one; see test_triton.py."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from albef.kernels.itc import itc_loss
from albef.kernels.mlm import WordLogits, mlm_token_losses
from tests.albef.kernels.device import DEVICE


def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """As one graph, run operation by operation: the launches are what is compared."""
    return torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=False)


def loss_and_gradients(function: Callable[..., Tensor], inputs: list[Tensor], trained: int) -> list[Tensor]:
    """Of the first `trained` inputs."""
    loss = function(*inputs)
    return [loss, *torch.autograd.grad(loss, inputs[:trained])]


def itc(feat: Tensor, temperature: Tensor, teacher: Tensor, keys: Tensor, queue: Tensor) -> Tensor:
    alpha = torch.full((), 0.4, device=feat.device)
    found = itc_loss(feat, keys, queue, temperature, teacher=teacher, alpha=alpha, impl="triton")
    return found.rows.mean()


def mlm(states: Tensor, words: Tensor, bias: Tensor, teacher_states: Tensor, labels: Tensor) -> Tensor:
    teacher = WordLogits(teacher_states, words.detach(), bias.detach())
    return mlm_token_losses(WordLogits(states, words, bias), labels, teacher, 0.4, impl="triton").mean()


def test_the_contrastive_loss() -> None:
    """Forward and backward launches, soft targets."""
    torch.manual_seed(0)
    rows = [F.normalize(torch.randn(count, 20, device=DEVICE), dim=1) for count in (5, 5, 5, 40)]
    inputs = [rows[0].requires_grad_(), torch.full((1,), 0.07, device=DEVICE, requires_grad=True), *rows[1:]]
    expected = loss_and_gradients(itc, inputs, 2)
    for one, other in zip(expected, loss_and_gradients(compiled(itc), inputs, 2), strict=True):
        assert torch.equal(one, other)


def test_masked_words_of_any_number() -> None:
    """One graph for 6 rows and for 9: another would raise."""
    torch.manual_seed(0)
    words, bias = (torch.randn(shape, device=DEVICE, requires_grad=True) for shape in ((300, 32), (300,)))
    graph = compiled(mlm)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for count in (6, 9):
            states, soft = (torch.randn(count, 32, device=DEVICE) for _ in range(2))
            labels = torch.randint(0, 300, (count,), device=DEVICE)
            for rows in (states, soft, labels):
                torch._dynamo.mark_dynamic(rows, 0)
            inputs = [states.requires_grad_(), words, bias, soft, labels]
            expected = loss_and_gradients(mlm, inputs, 3)
            for one, other in zip(expected, loss_and_gradients(graph, inputs, 3), strict=True):
                assert torch.equal(one, other)
