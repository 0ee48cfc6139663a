"""`model.compile` and `model.activation_checkpointing` together: the numbers of neither, and layers computed again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from albef.inputs.batch import PretrainBatch
from pipeline.engine.compile import compile_forward
from tests.pipeline.tasks.pretraining.test_compile import captions, task_of
from tests.pipeline.tasks.pretraining.test_shapes import lane


@pytest.fixture(autouse=True)
def no_graphs_of_other_tests() -> Iterator[None]:
    """Graphs belong to code, and so to all models of a process."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def two_steps(
    batch: PretrainBatch, *, checkpointing: bool = False, compiled: bool = False
) -> tuple[list[float], list[Tensor], int]:
    """Two steps of plain gradient descent, with dropout.

    Returns: the losses, all gradients, and how many tensors a forward kept for its backward, weights and queue aside.
    """
    task = task_of()
    if checkpointing:
        task.model.checkpoint_activations()
    if compiled:
        compile_forward(task.model, backend="aot_eager")
    weights = list(task.model.parameters())
    lasting = {tensor.untyped_storage().data_ptr() for tensor in [*weights, task.queue.image, task.queue.text]}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    losses, gradients, count = [], [], 0
    for step in range(2):
        torch.manual_seed(3 + step)
        task.model.zero_grad()
        targets = task.targets(batch)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            output = task.model(batch, targets, task.queue, torch.tensor(0.3))
        count = len(kept.keys() - lasting)
        kept.clear()
        output.total.backward()
        losses.append(output.total.item())
        gradients += [weight.grad.clone() for weight in weights if weight.grad is not None]
        with torch.no_grad():
            for weight in weights:
                if weight.grad is not None:
                    weight.sub_(weight.grad, alpha=0.01)
    return losses, gradients, count


def test_compiled_and_checkpointed_steps_have_the_same_losses_and_gradients() -> None:
    """Dropout is drawn again as it was in the forward. fp32; 1e-6 of the largest gradient, as compiled alone: the
    gradients of what is used twice are added in another order. The graph keeps as few tensors as checkpointing alone.
    """
    torch.manual_seed(0)
    batch = lane(captions()[:6], image=torch.randn(3, 32, 32))
    losses, gradients, kept = two_steps(batch)
    _, _, kept_by_checkpointing = two_steps(batch, checkpointing=True)
    losses_of_both, gradients_of_both, kept_by_both = two_steps(batch, checkpointing=True, compiled=True)
    assert losses_of_both == pytest.approx(losses, rel=1e-6)
    largest = max(gradient.abs().max().item() for gradient in gradients)
    pairs = zip(gradients, gradients_of_both, strict=True)
    assert max((one - other).abs().max().item() for one, other in pairs) < 1e-6 * largest
    assert kept_by_both <= kept_by_checkpointing < 0.75 * kept
