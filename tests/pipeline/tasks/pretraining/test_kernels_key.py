"""`model.kernels` reaches every fused kernel of pretraining, and is checked before a run starts."""

from __future__ import annotations

import pytest
import torch

from albef.errors import ConfigError
from albef.kernels import itc, mlm, moving_average
from albef.kernels.dispatch import use_triton
from pipeline.config.resolve import resolve
from pipeline.config.run_config import RunConfig
from pipeline.engine.distributed import World
from pipeline.task import LaneStep
from pipeline.tasks.pretraining.maker import PRETRAINING
from tests.support.tiny_run import TINY_MODEL

CPU = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


def run_with(kernels: str) -> RunConfig:
    recipe = {"model": TINY_MODEL, "batch": {"global_batch_size": 2, "micro_batch_size": 2}}
    return resolve(recipe | {"objective": {"queue_size": 4}}, {"model.kernels": kernels}, name="r")


@pytest.mark.parametrize("kernels", ["auto", "torch"])
def test_every_kernel_is_asked_for_that_version(monkeypatch: pytest.MonkeyPatch, kernels: str) -> None:
    """A lane and the teacher's update: both directions of ITC, MLM, the average."""
    asked = []

    def record(kernel: str, impl: str, *tensors: torch.Tensor, unsuited: str | None = None) -> bool:
        asked.append((kernel, impl))
        return use_triton(kernel, "torch", *tensors)

    for module in (itc, mlm, moving_average):
        monkeypatch.setattr(module, "use_triton", record)
    run = run_with(kernels)
    task = PRETRAINING.make(run, CPU, torch.float32)
    at = LaneStep(step=0, epoch=1, lane=0, num_lanes=1, steps_per_epoch=1)
    task.losses(task.model, PRETRAINING.noise(run, 2), at).total.backward()
    task.advance(task.model, steps_done=1)
    assert asked == [(kernel, kernels) for kernel in ("itc", "itc", "mlm_token_losses", "move_averages")]


def test_triton_without_a_gpu_is_an_error_with_a_way_out() -> None:
    """Before the model is built, not in the first step."""
    with pytest.raises(ConfigError, match=r"model.kernels: impl='triton' cannot run: .*cpu") as caught:
        PRETRAINING.make(run_with("triton"), CPU, torch.float32)
    assert "auto" in caught.value.hint
