"""`bench step`: the recipe's own engine and the trainer's own step, and the ceilings of what a step asks."""

from __future__ import annotations

import functools
import json
import math
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from albef.errors import ConfigError, TrainingError
from pipeline import cli
from pipeline.config.resolve import load_config
from pipeline.planning.bench_baseline import Baseline, check_baseline
from pipeline.planning.operations import StepCounter
from pipeline.planning.timing import StepTimer, Stopwatch, peak_memory, resident
from pipeline.tasks.pretraining.maker import PRETRAINING
from tests.support.tiny_run import tiny_recipe

CEILINGS = {
    "zero0_fp32": {"forward": 673, "backward": 619, "check": 14, "optimizer": 29, "advance": 6},
    "zero1_bf16": {"forward": 695, "backward": 550, "check": 14, "optimizer": 17, "advance": 8},
}
"""Operations that reach a kernel in a step of two lanes of the tiny model (one rank, clipping). Lower a number when a
change earns it; a higher one needs a reason."""
HOST_WAITS = {"zero0_fp32": {"check": 1}, "zero1_bf16": {"check": 1}}

PRINTED = {
    *("step_ms", "samples_per_s", "cpu_s", "kernel_ops_per_step", "host_waits_per_step"),
    *("peak_memory_gib", "memory_gib", "gflop_per_sample", "gflop_by_part", "needed_gflop_per_sample", "mfu_pct"),
}
OF_BASELINE = {"ratio_to_baseline", "memory_ratio_to_baseline", "baseline"}


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
    engine = {"zero0_fp32": "VectorAdamW around VectorAdamW", "zero1_bf16": "LeanBf16Optimizer around VectorAdamW"}[ds]
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
    assert named == PRINTED | OF_BASELINE | result["operations"].keys() and result.keys() >= PRINTED
    commands = re.findall(r"^(?:python|torchrun.*) -m (pipeline bench \w+ .*?)(?: +#.*)?$", page, re.MULTILINE)
    assert len(commands) == 8
    for command in commands:
        assert cli.main([*command.split()[1:], "--steps=0"]) == 2  # all that precedes the step is read
        assert "--steps 0 measures nothing" in capsys.readouterr().err


def test_the_baseline_takes_turns(folder: Path) -> None:
    """Both sides' figures and finite ratios; one lane of the samples that were asked for; the parts add up."""
    result = bench(folder, "--deepspeed.config=zero1_bf16", "--baseline", "--autocast", "--micro-batch-size=3")
    assert (result["lanes"], result["micro_batch_size"]) == (1, 3)
    plain = result["baseline"]
    assert plain["precision"] == "fp32 under torch.autocast to bf16"
    # one step of each: the ratio of medians is that of the pair
    assert result["ratio_to_baseline"] == pytest.approx(plain["cpu_s"] / result["cpu_s"], rel=0.1)
    assert result["ratio_to_baseline_spread"] == [result["ratio_to_baseline"]] * 2
    memory = plain["peak_memory_gib"]
    assert result["memory_ratio_to_baseline"] == pytest.approx(result["peak_memory_gib"] / memory, rel=0.05)
    assert result["kernel_ops_per_step"] == sum(result["operations"].values())
    assert result["host_waits_per_step"] == sum(result["host_waits"].values())
    assert sum(result["memory_gib"].values()) == pytest.approx(result["peak_memory_gib"], abs=0.01)


def test_memory_is_measured_beside_the_estimate(folder: Path) -> None:
    """What is kept from step to step, in bytes of a parameter; DeepSpeed pads its flat copies a little."""
    recipe = str(tiny_recipe(folder))
    command = [sys.executable, "-m", "pipeline", "bench", "memory", recipe, "--device=cpu", "--json"]
    done = subprocess.run(
        [*command, "--deepspeed.config=zero1_bf16"], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    measured, estimated = result["measured_bytes"], result["estimated_bytes"]
    assert measured.keys() - {"process"} == estimated.keys()
    for part in estimated.keys() - {"activations", "gradients"}:
        assert measured[part] == pytest.approx(estimated[part], rel=0.01), part
    parameters = estimated["weights"] / 2
    assert measured["optimizer"] == pytest.approx(12 * parameters, rel=0.01)  # two moments and a master
    # the fp32 sum; a lane's bf16 gradients, which the estimate counts too, are gone when it is whole
    assert measured["gradients"] == pytest.approx(4 * parameters, rel=0.01)
    assert estimated["gradients"] == 6 * parameters
    assert sum(measured.values()) == pytest.approx(result["peak_memory_gib"] * 2**30, rel=0.01)


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


def test_a_stopwatch_and_a_timer_measure_what_happens() -> None:
    """Two parts of known length, and three steps."""
    stopwatch, timer = Stopwatch(lambda: None), StepTimer(torch.device("cpu"))
    for part in ("short", "long", "short"):
        stopwatch(part)
        time.sleep(0.02 if part == "short" else 0.1)
    seconds = {part: spent[0] for part, spent in stopwatch.stop().items()}
    assert 0.04 <= seconds["short"] < seconds["long"]
    for _ in range(3):
        timer(lambda: time.sleep(0.02))
    assert len(timer.times()) == 3 and all(took.cpu_s < 0.02 <= took.seconds for took in timer.times())


def test_a_process_s_peak_is_its_own() -> None:
    """64 MiB more for a moment raise it by 64 MiB; a child does not begin with its parent's."""
    device = torch.device("cpu")
    peak = resident("VmRSS")
    torch.ones(max(0, peak_memory(device) - peak) + 2**26, dtype=torch.uint8)
    assert peak_memory(device) >= peak + 2**26 * 0.9
    code = "from pipeline.planning.timing import resident; print(resident('VmHWM'))"
    ballast = torch.ones(2**30, dtype=torch.uint8)
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(child.stdout) < ballast.nbytes


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


def test_mistakes_with_the_baseline_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several lanes or ranks, half an objective, flags that do not go together, an installation without it."""
    recipe = str(tiny_recipe(tmp_path))
    one_lane = ["bench", "step", recipe, "--device=cpu", "--micro-batch-size", "4", "--baseline"]
    for words, error in [
        (["bench", "step", recipe, "--device=cpu", "--baseline"], "one lane a step, this run 2"),
        ([*one_lane, "--batch.global_batch_size=8"], "one lane a step, this run 2"),
        ([*one_lane, "--objective.mlm=false"], "objective.mlm is off"),
        (["bench", "step", recipe, "--autocast"], "--autocast is the baseline's"),
        (["bench", "memory", recipe, "--baseline"], "`bench memory` has no baseline"),
        (["bench", "steps", recipe], "invalid choice: 'steps'"),
    ]:
        assert cli.main(words) == 2
        assert error in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(one_lane) == 2
    assert "--baseline takes one rank, here are 2" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"runs benchmarks/baseline\.py, and .* has none"):
        check_baseline(load_config(recipe, []), checkout=tmp_path)


def test_a_baseline_that_dies_is_reported(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its own error is on stderr, and the step's error names its exit code."""
    run = load_config(str(tiny_recipe(tmp_path)), [])
    wrong = PRETRAINING.noise(run, 2)
    wrong.input_ids = wrong.input_ids + 10**6  # no such words
    device = torch.device("cpu")
    with (
        pytest.raises(TrainingError, match="ended with code 1"),
        Baseline(run, PRETRAINING, wrong, device=device, autocast=False) as baseline,
    ):
        baseline.step()
    assert "IndexError" in capfd.readouterr().err
