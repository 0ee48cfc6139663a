"""A rank that is killed under the real srun: who reports it, and what is left."""

from __future__ import annotations

import os
import re
import signal
import sys
from pathlib import Path

import pytest

from tests.slurm.local_slurm import LocalSlurm
from tests.support.data_prep_runs import wait_for
from tests.support.job_processes import is_trainer, processes_with
from tests.support.tiny_run import tiny_recipe

SCRIPT = Path(__file__).resolve().parents[2] / "slurm" / "pretrain.sh"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_rank_fails_the_job_and_is_named(slurm: LocalSlurm, tmp_path: Path) -> None:
    """kill -9 of rank 0 of two on two nodes: the other one names it, the job fails and is not requeued, and nothing of
    it is left."""
    tiny_recipe(tmp_path, max_steps=100_000, data={"manifests": [str(tmp_path / "shards")], "num_workers": 1})
    run_dir = tmp_path / "runs" / "tiny"
    options = ["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=1", "--time=60"]
    job = slurm.submit(*options, SCRIPT, "tiny.yaml", cwd=tmp_path, PYTHON=sys.executable)
    metrics = run_dir / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and metrics.read_text().count("\n") >= 3, "three steps", 300)
    mark = f"SLURM_JOB_ID={job}"
    ranks = {env.get("SLURM_PROCID"): pid for pid, env in processes_with(mark) if is_trainer(pid)}
    assert sorted(filter(None, ranks)) == ["0", "1"]
    os.kill(ranks["0"], signal.SIGKILL)
    fields = slurm.wait_for(job, "COMPLETED", "FAILED", "CANCELLED", timeout_s=120)
    text = (run_dir / f"slurm-{job}.out").read_text()
    assert (fields["JobState"], fields["Restarts"]) == ("FAILED", "0"), text
    assert re.search(r"END \S+ exit code (69|137), ", text), text  # that of the rank whose shell wrote its own first
    assert len(re.findall(r"^\[rank 1\] error: rank 0 on \S+ is gone \(last step \d+", text, re.MULTILINE)) == 1, text
    wait_for(lambda: not processes_with(mark), "the end of every process of the job", 60)
