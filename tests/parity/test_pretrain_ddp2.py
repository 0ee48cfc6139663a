"""Two ranks, two steps, against the official code under DDP: what is shared between ranks and what must not be."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from tests.parity.goldens import EXACT, ROUNDED, Trio, adamw, build, check, load, official_groups, recorded_batch
from tests.support.ranks import run_ranks


def test_two_ranks_take_the_recorded_steps() -> None:
    """Losses of each rank, averaged gradients, queues (rank 0's rows first) and final weights, in float64.

    Candidates and negatives stay local to a rank; were they gathered, the losses would differ.
    """
    world_size = load("pretrain_ddp2").info["world_size"]
    run_ranks(_take_steps, world_size)


def _take_steps(rank: int, world_size: int) -> None:
    golden, first = load("pretrain_ddp2"), load("pretrain_tiny")
    state = first.under("state/") | {"queue_ptr": golden["state_ptr"]}
    trio = build(golden, torch.float64, state=state)
    optimizer = adamw(trio, official_groups(first), golden.info["run"]["lr"])
    alpha = torch.tensor(golden.info["config"]["alpha"], dtype=torch.float64)
    num_steps = len({key.split("/")[0] for key in golden.tensors if key.startswith("step")})
    assert num_steps >= 1
    for k in range(num_steps):
        source = f"step{k}/rank{rank}/"
        batch, negatives = recorded_batch(golden, source + "in/", source + "inj/")
        trio.teacher.update(trio.student)
        targets = trio.teacher.targets(batch)
        trio.queue.gather(targets.image_feat, targets.text_feat)  # runs under the forward and backward
        output = trio.student(batch, targets, trio.queue, alpha, negative_indices=negatives)
        optimizer.zero_grad()
        output.total.backward()
        _average_gradients(trio, world_size)
        optimizer.step()
        trio.queue.enqueue()
        trio.queue.assert_equal_across_ranks()

        losses = torch.stack([output.itc, output.itm, output.mlm]).detach()
        expected = golden[source + "out/losses_ita_itm_mlm"]
        check(source + "losses", losses, expected, EXACT * max(1.0, float(expected.max())))
        parameters = trio.parameters()
        for name, recorded in golden.under(f"step{k}/grad_avg/").items():
            gradient = parameters[name].grad
            assert gradient is not None
            _check_rounded(f"step{k}/grad_avg/{name}", gradient, recorded)
        after = f"step{k}/post/"
        _check_rounded(after + "image_queue", trio.queue.image.T, golden[after + "image_queue"])
        _check_rounded(after + "text_queue", trio.queue.text.T, golden[after + "text_queue"])
        assert trio.queue.pointer == int(golden[after + "queue_ptr"])

    finals = {name: parameter.detach() for name, parameter in trio.parameters().items()} | trio.averaged()
    for name, recorded in golden.under("final/").items():
        _check_rounded(f"final/{name}", finals[name], recorded)


def _average_gradients(trio: Trio, world_size: int) -> None:
    """The mean over ranks, as DDP takes it."""
    gradients = [parameter.grad for parameter in trio.student.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, mean in zip(gradients, (flat / world_size).split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _check_rounded(name: str, ours: Tensor, recorded: Tensor) -> None:
    allowed = (EXACT if recorded.dtype == torch.float64 else ROUNDED) * max(1.0, float(recorded.abs().max()))
    check(name, ours.detach().view(recorded.shape), recorded, allowed)
