"""The two-rank recording again, through the DeepSpeed engine at every stage: what training really runs."""

from __future__ import annotations

import pytest
import torch

from tests.parity.goldens import adamw, build, check, load, official_groups, recorded_batch
from tests.support.ranks import run_ranks

LOSSES = 1e-5
"""Float32 losses against float64 ones, relative: the official code's own error over 100 steps stays below 4e-6."""
WEIGHTS = 2e-5
"""Weights after two AdamW steps of 1e-3: 1% of a step. A gradient near zero may turn in sign, so AdamW's first steps
are no smoother than that in float32; a wrong scale or a missing rank moves most weights by a whole step."""


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_two_deepspeed_ranks_take_the_recorded_steps(stage: int) -> None:
    """Losses of each rank, both queues and the final weights, student and teacher, at ZeRO `stage` in float32."""
    run_ranks(_take_steps, load("pretrain_ddp2").info["world_size"], stage, process_group=False)


def _take_steps(rank: int, world_size: int, stage: int) -> None:
    import deepspeed

    from pipeline.engine import distributed

    golden, first = load("pretrain_ddp2"), load("pretrain_tiny")
    distributed.init()
    state = first.under("state/") | {"queue_ptr": golden["state_ptr"]}
    trio = build(golden, torch.float32, state=state)
    engine, *_ = deepspeed.initialize(
        model=trio.student,
        optimizer=adamw(trio, official_groups(first), golden.info["run"]["lr"]),
        config={
            "train_micro_batch_size_per_gpu": golden.info["run"]["B"],
            "gradient_accumulation_steps": 1,
            "gradient_clipping": 0.0,  # 1.0 by default in DeepSpeed 0.19
            "steps_per_print": 1_000,
            "zero_optimization": {"stage": stage, "reduce_bucket_size": 1_000_000, "allgather_bucket_size": 1_000_000},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
        },
        dist_init_required=False,
    )
    engine.eval()  # the recording has no dropout
    alpha = torch.tensor(golden.info["config"]["alpha"], dtype=torch.float64)
    num_steps = len({key.split("/")[0] for key in golden.tensors if key.startswith("step")})
    for k in range(num_steps):
        source = f"step{k}/rank{rank}/"
        batch, negatives = recorded_batch(golden, source + "in/", source + "inj/")
        batch.image = batch.image.float()
        trio.teacher.update(trio.student)
        targets = trio.teacher.targets(batch)
        trio.queue.gather(targets.image_feat, targets.text_feat)
        output = engine(batch, targets, trio.queue, alpha, negative_indices=negatives)
        engine.backward(output.total)
        engine.step()
        trio.queue.enqueue()

        losses = torch.stack([output.itc, output.itm, output.mlm]).detach()
        expected = golden[source + "out/losses_ita_itm_mlm"]
        check(f"stage {stage} {source}losses", losses, expected, LOSSES * float(expected.max()))
        for name, ours in (("image_queue", trio.queue.image), ("text_queue", trio.queue.text)):
            check(f"step{k}/post/{name}", ours.T, golden[f"step{k}/post/{name}"], WEIGHTS)
    finals = {name: parameter.detach() for name, parameter in trio.parameters().items()} | trio.averaged()
    for name, recorded in golden.under("final/").items():
        check(f"stage {stage} final/{name}", finals[name].view(recorded.shape), recorded, WEIGHTS)
