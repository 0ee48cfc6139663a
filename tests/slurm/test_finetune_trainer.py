"""A fine-tuning and an evaluation of each task through sbatch: a real Slurm, the real trainer, tiny models."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline import cli
from pipeline.config.run_config import DEFAULT_TASK, RUNS
from pipeline.watch.status import read_status
from tests.slurm.local_slurm import LocalSlurm
from tests.support.alignment_run import alignment_recipe
from tests.support.data_prep_runs import wait_for
from tests.support.entailment_run import entailment_recipe
from tests.support.finetuning import scalars
from tests.support.nlvr2_run import nlvr2_recipe
from tests.support.retrieval_run import grounding_recipe, retrieval_recipe
from tests.support.vqa_run import vqa_recipe

SLURM = Path(__file__).resolve().parents[2] / "slurm"
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
TIME_S = 400.0
"""For all jobs of a kind on a busy machine; on two idle cores they take half a minute."""


class Tiny(NamedTuple):
    """How a task is tried."""

    recipe: Callable[..., Path]
    """Writes data and recipe into a folder."""
    annotations: str
    """The file to evaluate on; empty for a task without an evaluation."""
    flags: tuple[str, ...] = ()
    """Of `evaluate`, beside those of every task."""


TINY = {
    "snli-ve": Tiny(entailment_recipe, "dev.json"),
    "nlvr2-pretrain": Tiny(alignment_recipe, ""),
    "nlvr2": Tiny(nlvr2_recipe, "dev.json"),
    "vqa": Tiny(vqa_recipe, "val.json", ("--answers", "answers.json", "--k-test", "4")),
    "retrieval": Tiny(retrieval_recipe, "val.json", ("--k-test", "3")),
    "grounding": Tiny(grounding_recipe, "phrases.json", ("--block", "0")),
}
REQUEUED, REQUEUED_STEPS = "snli-ve", 60
"""The task whose job gets USR1, as before its time limit, and the length of its run."""
ON_TWO_RANKS = {"train": "retrieval", "evaluate": "nlvr2"}


class Jobs(NamedTuple):
    """A task's jobs: their folder, and what Slurm shows of each when it has ended."""

    folder: Path
    recipe: Path
    finetuned: dict[str, str]
    evaluated: dict[str, str] | None

    @property
    def run_dir(self) -> Path:
        return self.folder / "runs" / self.recipe.stem


def submit(slurm: LocalSlurm, folder: Path, script: str, *words: str, ranks: int) -> int:
    options = (f"--ntasks-per-node={ranks}", "--cpus-per-task=1", "--time=30")
    return slurm.submit(*options, SLURM / script, *words, cwd=folder, PYTHON=sys.executable)


def evaluate(slurm: LocalSlurm, folder: Path, task: str) -> int:
    """Submit the evaluation of the exported model."""
    words = ["--model", "model", "--images", "images", "--annotations", TINY[task].annotations, "--out", "found.json"]
    ranks = 1 + (task == ON_TWO_RANKS["evaluate"])
    return submit(slurm, folder, "evaluate.sh", task, *words, *TINY[task].flags, ranks=ranks)


@pytest.fixture(scope="module")
def jobs(slurm: LocalSlurm, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Jobs]]:
    """All fine-tunings side by side; as each ends, its model is exported, and the evaluation submitted."""
    folders, recipes, training, evaluating = {}, {}, {}, {}
    for task, tiny in TINY.items():
        folder = folders[task] = tmp_path_factory.mktemp(task)
        recipe = recipes[task] = tiny.recipe(folder)
        flags = ["--max_steps=2"]
        if task == REQUEUED:
            flags = [f"--max_steps={REQUEUED_STEPS}", "--checkpoint.save_every=4"]
        if tiny.annotations:
            flags.append("--validation.every_steps=0")
        words = [task, recipe.name, *flags]
        ranks = 1 + (task == ON_TWO_RANKS["train"])
        training[task] = submit(slurm, folder, "finetune.sh", *words, ranks=ranks)
    latest = folders[REQUEUED] / "runs" / recipes[REQUEUED].stem / "checkpoints" / "latest"
    wait_for(latest.exists, "a checkpoint", TIME_S)
    slurm.command("scancel", "--signal=USR1", str(training[REQUEUED]))
    finetuned = {}
    for task in sorted(TINY, key=lambda task: task == REQUEUED):
        finetuned[task] = slurm.wait_for(training[task], *ENDED, timeout_s=TIME_S)
        run_dir = folders[task] / "runs" / recipes[task].stem
        if finetuned[task]["JobState"] == "COMPLETED" and TINY[task].annotations:
            assert cli.main(["export", str(run_dir), "--out", str(folders[task] / "model")]) == 0
            evaluating[task] = evaluate(slurm, folders[task], task)
    evaluated = {task: slurm.wait_for(job, *ENDED, timeout_s=TIME_S) for task, job in evaluating.items()}
    yield {task: Jobs(folders[task], recipes[task], finetuned[task], evaluated.get(task)) for task in TINY}


def log_of(fields: dict[str, str]) -> str:
    return Path(fields["StdOut"]).read_text()


def test_every_task_is_tried() -> None:
    """A task that is added joins by a line of TINY."""
    assert TINY.keys() == RUNS.keys() - {DEFAULT_TASK}


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("task", TINY)
def test_a_task_is_trained_and_evaluated(jobs: dict[str, Jobs], task: str) -> None:
    """The last step is done, in the run folder of the recipe; the evaluation, if there is one, is of every entry."""
    job = jobs[task]
    assert job.finetuned["ExitCode"] == "0:0", log_of(job.finetuned)
    assert f"rank 0 of {1 + (task == ON_TWO_RANKS['train'])} on cpu" in log_of(job.finetuned)
    steps = list(scalars(job.run_dir, "train/loss"))
    assert steps == list(range(1, 1 + (REQUEUED_STEPS if task == REQUEUED else 2)))
    if not TINY[task].annotations:
        return
    assert job.evaluated is not None and job.evaluated["ExitCode"] == "0:0", log_of(job.evaluated or job.finetuned)
    found: dict[str, Any] = json.loads((job.folder / "found.json").read_text())
    entries = json.loads((job.folder / TINY[task].annotations).read_text())
    assert found["task"] == task
    assert len(entries) == found.get("num_entries", found.get("num_images"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_signal_before_the_time_limit_saves_and_requeues(jobs: dict[str, Jobs]) -> None:
    """USR1 to the job's step: saved, requeued by itself, resumed in the same run folder, finished."""
    job = jobs[REQUEUED]
    assert (job.finetuned["JobState"], job.finetuned["Restarts"]) == ("COMPLETED", "1"), log_of(job.finetuned)
    starts = [line.rpartition("=")[2] for line in (job.run_dir / "starts.log").read_text().splitlines()]
    assert len(starts) == 2 and starts[0] == "none" and starts[1].startswith("step_")
    assert f"requeued job {job.finetuned['JobId']} to resume from {starts[1]}" in log_of(job.finetuned)
    status = read_status(job.run_dir)
    assert (status.stage, status.step, status.starts, status.requeues) == ("finished", REQUEUED_STEPS, 2, 1)
