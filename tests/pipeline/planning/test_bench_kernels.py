"""`bench kernels`: every case computes one thing in all its ways, and memory and percentiles are what they say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.config.resolve import load_config
from pipeline.config.run_config import PretrainingRun
from pipeline.engine.distributed import World
from pipeline.planning.bench import table
from pipeline.planning.bench_kernels import measure_kernels, peak_above, percentiles
from pipeline.tasks.pretraining.kernel_cases import CASES
from tests.support.tiny_run import tiny_recipe

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> PretrainingRun:
    return load_config(str(tiny_recipe(tmp_path)), ["--objective.queue_size=300"])


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_one_computation(name: str, run: PretrainingRun) -> None:
    """The plain formula and the chunked version give one scalar and one set of gradients, in fp32."""
    case = CASES[name](run, CPU, torch.float32)
    plain, ours = case.run["plain"](), case.run["torch"]()
    torch.testing.assert_close(ours.to(plain.dtype), plain, rtol=1e-5, atol=1e-6)
    for one, other in zip(torch.autograd.grad(plain, case.inputs), torch.autograd.grad(ours, case.inputs), strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-5 * float(one.abs().max()))


def test_what_is_measured(run: PretrainingRun) -> None:
    """Each implementation that runs here has its times and its memory, and a line of the table."""
    result = measure_kernels(run, World(rank=0, local_rank=0, size=1, device=CPU), steps=2)
    assert [row["kernel"] for row in result["kernels"]] == list(CASES)
    for row in result["kernels"]:
        assert list(row["implementations"]) == ["plain", "torch"]  # Triton's needs a GPU
        for found in row["implementations"].values():
            for what in ("forward", "forward_backward"):
                low, median, high = found[f"{what}_ms"]
                assert 0 < low <= median <= high and found[f"{what}_mib"] > 0
    lines = table(result).splitlines()
    assert sum(line.startswith(("plain ", "torch ")) for line in lines) == 2 * len(CASES)


def test_peak_memory_of_a_call_by_hand() -> None:
    """Two of 4 MB at once, though three are made; the inputs do not count."""
    given = torch.ones(1_000, 1_000)

    def call() -> torch.Tensor:
        first = given + 1
        second = first + 1
        del first
        return second.add_(given)

    assert peak_above(call, CPU) == pytest.approx(8e6, rel=0.001)


def test_percentiles() -> None:
    """Of eleven numbers the third, the sixth and the ninth; of one, itself."""
    assert percentiles([float(number) for number in range(11)]) == (2.0, 5.0, 8.0)
    assert percentiles([3.0]) == (3.0, 3.0, 3.0)
