"""Logs and run folders with blanks, nodes without scontrol, and node lists, as the real Slurm has them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.engine.launch import first_host
from tests.slurm.local_slurm import LocalSlurm

ROOT = Path(__file__).resolve().parents[2]


def test_a_log_whose_name_has_blanks_and_patterns_is_linked(slurm: LocalSlurm, project: Path, tmp_path: Path) -> None:
    """`--output` with a folder `my logs` and %x: the link leads to the log; the run folder has a blank and a dollar."""
    (tmp_path / "my logs").mkdir()
    options = ["--ntasks-per-node=1", "--job-name=a name", f"--output={tmp_path}/my logs/%x of %j.out"]
    script = project / "slurm" / "pretrain.sh"
    words = ["recipes/my toy.yaml", "--steps", "1", "--run-dir", "my runs/$HOME"]
    job = slurm.submit(*options, script, *words, cwd=tmp_path, PYTHON=sys.executable)
    slurm.wait_for(job, "COMPLETED", "FAILED")
    text = (tmp_path / "my runs" / "$HOME" / f"slurm-{job}.out").read_text()
    assert "rank 0 of 1 at step 0 recipe recipes/my toy.yaml" in text and "exit code 0" in text


def test_a_node_without_scontrol_runs_the_job_and_reports_that_it_cannot_requeue(
    slurm: LocalSlurm, project: Path, tmp_path: Path
) -> None:
    """Submitted from the project's folder; the nodes' scontrol fails. The ranks meet, stop and save all the same."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "scontrol").write_text("#!/bin/sh\nexit 127\n")
    (bin_folder / "scontrol").chmod(0o755)
    path = f"{bin_folder}:{slurm.environment['PATH']}"
    words = ["--nodes=2", "--ntasks-per-node=1", f"--output={tmp_path}/log"]
    words += ["slurm/pretrain.sh", "toy", "--stuck", "1", "--run-dir", str(tmp_path / "run")]
    job = slurm.submit(*words, cwd=project, PYTHON=sys.executable, PATH=path)
    slurm.wait_for(job, "COMPLETED", "FAILED")
    text = (tmp_path / "run" / f"slurm-{job}.out").read_text()
    assert all(f"rank {rank} of 2" in text for rank in (0, 1)), text
    assert "exit code 75" in text and "error: the job is not requeued: scontrol does not answer" in text, text


@pytest.mark.parametrize(
    "nodelist",
    [
        "n1",
        "n[1-3],x",
        "a[1-3,7],b",
        "gpu[03-05]x[1-2]",
        "r[1,3-5]n[2-4],z",
        "n-[007,9],c.cluster.local",
    ],
)
def test_the_script_and_the_trainer_find_the_host_that_slurm_finds(slurm: LocalSlurm, nodelist: str) -> None:
    """The first of `scontrol show hostnames`, without asking it."""
    found = slurm.command("scontrol", "show", "hostnames", nodelist).split()
    assert found, nodelist
    expected = found[0]
    words = ["bash", "-c", '. slurm/lib.sh; first_host "$0"', nodelist]
    ours = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert (ours, first_host(nodelist)) == (expected, expected)
