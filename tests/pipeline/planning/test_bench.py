"""`bench step`: the recipe's own engine and the trainer's own step, and the ceilings of what a step asks."""

from __future__ import annotations

import functools
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline import cli
from pipeline.planning.operations import StepCounter
from tests.support.tiny_run import tiny_recipe

CEILINGS = {
    "zero0_fp32": {"forward": 683, "backward": 737, "check": 14, "optimizer": 835, "advance": 6},
    "zero1_bf16": {"forward": 709, "backward": 1_049, "check": 14, "optimizer": 134, "advance": 93},
}
"""Operations that reach a kernel in a step of two lanes of the tiny model (one rank, clipping). Lower a number when a
change earns it; a higher one needs a reason."""
HOST_WAITS = {"zero0_fp32": {"check": 1, "optimizer": 89}, "zero1_bf16": {"check": 1, "optimizer": 3}}
"""On a CPU; of the optimizer's, all but DeepSpeed's one at stage 1 are AdamW reading its step numbers, which on a GPU
stay on the host."""


PRINTED = {"step_ms", "samples_per_s", "cpu_s", "peak_memory_gib", "gflop_per_sample", "mfu_pct"}


@functools.cache
def bench(folder: Path, *flags: str) -> dict:
    """The JSON of `bench step` on the CPU with the tiny recipe, from a process of its own."""
    recipe = str(tiny_recipe(folder))
    command = [sys.executable, "-m", "pipeline", "bench", "step", recipe, "--device=cpu", "--steps=1", "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)  # and nothing else is printed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bench")


@pytest.mark.parametrize("ds", CEILINGS)
def test_a_step_stays_below_its_ceilings(ds: str, folder: Path) -> None:
    """Operations and host waits of each part, in the engine that the recipe's run has."""
    result = bench(folder, f"--deepspeed.config={ds}")
    over = {part: count for part, count in result["operations"].items() if count > CEILINGS[ds][part]}
    assert not over and result["operations"].keys() == CEILINGS[ds].keys()
    waits = {part: count for part, count in result["host_waits"].items() if count > HOST_WAITS[ds].get(part, 0)}
    assert not waits
    engine = {"zero0_fp32": "AdamW around AdamW", "zero1_bf16": "BF16_Optimizer around AdamW"}[ds]
    assert result["optimizer"] == engine
    assert (result["lanes"], result["micro_batch_size"], result["steps"]) == (2, 4, 1)
    parts = ["forward", "backward", "check", "optimizer", "advance"]
    assert list(result["parts_ms"]) == list(result["parts_cpu_s"]) == parts
    assert all(value > 0 for value in result["parts_ms"].values())
    assert result["samples_per_s"] == pytest.approx(8e3 / result["step_ms"], rel=0.01)


def test_the_recipe_s_batch_is_measured_where_it_is_given(folder: Path) -> None:
    """Twice the lanes are about twice the operations of forward and backward; the other parts stay."""
    two = bench(folder, "--deepspeed.config=zero1_bf16")
    four = bench(folder, "--deepspeed.config=zero1_bf16", "--batch.global_batch_size=16", "--batch.micro_batch_size=4")
    assert (four["lanes"], four["operations"]["optimizer"]) == (4, two["operations"]["optimizer"])
    assert 1.9 < four["operations"]["forward"] / two["operations"]["forward"] <= 2


def test_the_page_explains_what_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each figure and part of the tables of docs/speed.md is one of the result; its commands name recipes and keys."""
    page = (Path(__file__).parents[3] / "docs" / "speed.md").read_text()
    rows = re.findall(r"^\| (`.*?`) \|", page, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    result = bench(folder, "--deepspeed.config=zero1_bf16")
    assert named == PRINTED | result["operations"].keys() and result.keys() >= PRINTED
    commands = re.findall(r"^(?:python|torchrun.*) -m (pipeline bench step .*?)(?: +#.*)?$", page, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        assert cli.main([*command.split()[1:], "--steps=0"]) == 2  # all that precedes the step is read
        assert "--steps 0 measures nothing" in capsys.readouterr().err


def test_operations_and_waits_are_counted_by_part() -> None:
    """By hand: views and allocations reach no kernel; a number, a list and a mask's positions make the host wait."""
    with StepCounter() as counter:
        counter("arithmetic")
        product = torch.ones(3, 3) @ torch.ones(3, 3)  # three: two fills and a product
        product.t().add_(1)  # one
        torch.empty(4)
        counter("waits")
        rows = product.tolist()
        positions = (product > 0).nonzero()  # two
        value = product.sum().item()  # one, and the read
    assert rows[0] == [4.0] * 3 and len(positions) == 9 and math.isclose(value, 36)
    assert counter.operations["arithmetic"] == 4
    assert counter.host_waits == {"waits": 3}


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No recipe, no steps, no such key."""
    recipe = str(tiny_recipe(tmp_path))
    assert cli.main(["bench", "step"]) == 2
    assert "one of albef_14m" in capsys.readouterr().err
    assert cli.main(["bench", "step", recipe, "--steps", "0"]) == 2
    assert "--steps 0 measures nothing" in capsys.readouterr().err
    assert cli.main(["bench", "step", recipe, "--device", "cuda:1"]) == 2  # ranks take the device of their number
    assert "invalid choice: 'cuda:1'" in capsys.readouterr().err
    assert cli.main(["bench", "step", recipe, "--sise", "tiny"]) == 2
    assert "--sise is not a flag or a key" in capsys.readouterr().err
