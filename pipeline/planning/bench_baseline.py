"""The plain step of `benchmarks/baseline.py`, in a process of its own that takes a step when asked.

`pipeline` imports nothing of `benchmarks`, which an installed package lacks: the process is a program of the checkout.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from albef.errors import ConfigError, TrainingError
from pipeline.config.run_config import RunConfig
from pipeline.engine.optim import split_names
from pipeline.planning.timing import StepTime
from pipeline.task_maker import TaskMaker

CHECKOUT = Path(__file__).resolve().parents[2]
SWITCHES = ("itc", "itm", "mlm", "hard_negatives", "distill_itc", "distill_mlm")


def check_baseline(recipe: RunConfig, *, checkout: Path = CHECKOUT) -> None:
    """Raises: ConfigError when there is no baseline here, or none for this recipe."""
    if not (checkout / "benchmarks" / "baseline_process.py").is_file():
        raise ConfigError(
            f"--baseline runs benchmarks/baseline.py, and {checkout} has none",
            "installed packages come without it: run the command in a checkout of the repository",
        )
    if off := [name for name in SWITCHES if not getattr(recipe.objective, name)]:
        raise ConfigError(
            f"--baseline is the paper's whole objective, and objective.{off[0]} is off",
            "leave --baseline out, or switch it on",
        )
    if recipe.batch.num_lanes != 1:
        raise ConfigError(
            f"--baseline takes one lane a step, this run {recipe.batch.num_lanes}",
            f"give --micro-batch-size {recipe.batch.micro_batch_size}",
        )


class Baseline:
    """The process; use as a context manager.

    Args:
        batch: what both sides take their steps on.
        autocast: fp32 weights, arithmetic in bf16 where torch.autocast does so.
    """

    def __init__(
        self, recipe: RunConfig, maker: TaskMaker, batch: Any, *, device: torch.device, autocast: bool
    ) -> None:
        named = maker.sketch(recipe, torch.float32).model.named_parameters()
        self._asked = {
            "model": recipe.model.to_dict(),
            "objective": dataclasses.asdict(recipe.objective),
            "device": str(device),
            "batch": {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)},
            "settings": {
                "lr": recipe.optim.lr,
                "weight_decay": recipe.optim.weight_decay,
                "betas": recipe.optim.betas,
                "eps": recipe.optim.eps,
                "decayed": split_names(named, recipe.optim.decay_groups)[1],
                "autocast": autocast,
            },
        }
        self._folder = tempfile.TemporaryDirectory(prefix="baseline-")
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Baseline:
        file = Path(self._folder.name) / "asked.pt"
        torch.save(self._asked, file)
        path = os.pathsep.join([str(CHECKOUT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.baseline_process", str(file)],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        if kind is not None:
            self._process.kill()
        self._process.communicate()  # closes its stdin, at which it ends
        self._folder.cleanup()

    def step(self) -> StepTime:
        """It takes a step, while this process waits."""
        return StepTime(**self._ask("step"))

    def peak_memory(self) -> int:
        """Bytes, as `timing.peak_memory`, of its process."""
        return self._ask("memory")["peak"]

    def _ask(self, what: str) -> dict[str, Any]:
        """Raises: TrainingError when the process has ended; what it printed is above."""
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(f"{what}\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise TrainingError(
                f"the baseline's process ended with code {process.wait()}",
                "its error is above; where memory ran out, give a smaller --micro-batch-size",
            )
        return json.loads(answer)
