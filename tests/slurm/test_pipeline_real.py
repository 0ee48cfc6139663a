"""The whole chain for real under Slurm: pictures from a web server, shards, a trained model, numbers. No stubs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from data_prep.shards.manifest import read_manifest
from pipeline.watch.status import read_status
from tests.slurm.local_slurm import LocalSlurm
from tests.support.data_prep_runs import wait_for
from tests.support.hostile_images import jpeg
from tests.support.image_server import ImageServer, Reply
from tests.support.tiny_run import tiny_recipe

ROOT = Path(__file__).resolve().parents[2]
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
NUM_ROWS, SHARD_SIZE = 40, 5
LOOPBACK = "--allow-private-addresses"


def finished(data: Path, number: int, count: int) -> int:
    """Shards of part `number` of `count` that are done."""
    records = [int(path.stem.rpartition("-")[2]) for path in (data / "shards").glob("*.json")]
    return sum(shard % count == number - 1 for shard in records)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_from_urls_to_numbers_with_both_download_tasks_interrupted(slurm: LocalSlurm, tmp_path: Path) -> None:
    """One part is requeued by hand, the other gets USR1 as before its time limit; every row is there once.

    What a filter drops is not trained on.
    """
    tiny_recipe(tmp_path, max_steps=6)
    data = tmp_path / "data" / "web"
    settings = {
        "PYTHON": sys.executable,
        "URLS": "web.tsv",
        "PARTS": "2",
        "CORPUS": "data/clean",
        "FILTER_FLAGS": "--off exact_duplicate near_duplicate",  # all pictures here are one
        "DOWNLOAD_FLAGS": f"{LOOPBACK} --shard-size {SHARD_SIZE} --image-size 64 --threads 1 --retries 0",
        "EVALUATE_FLAGS": f"--data {data} --k-test 8",
        "PRETRAIN_SBATCH": "--cpus-per-task=1 --ntasks-per-node=2 --time=30",
        **{f"{stage}_SBATCH": "--cpus-per-task=1" for stage in ("DOWNLOAD", "VERIFY", "FILTER", "EXPORT", "EVALUATE")},
    }
    with ImageServer() as server:
        server.serve_anything(lambda path: Reply(jpeg(), delay_s=0.2))
        server.add("/7.jpg", Reply(status=404))
        captions = ["x" if row == 9 else f"picture {row}" for row in range(NUM_ROWS)]
        rows = "".join(f"{server.url(f'/{row}.jpg')}\t{caption}\n" for row, caption in enumerate(captions))
        (tmp_path / "web.tsv").write_text("url\tcaption\n" + rows)
        output = slurm.command(
            "bash", str(ROOT / "slurm" / "pipeline.sh"), "tiny.yaml", cwd=tmp_path, settings=settings
        )
        jobs = {stage: int(job) for stage, job in re.findall(r"^(\w+) (\d+)", output, re.MULTILINE)}
        tasks = [f"{jobs['download']}_{number}" for number in (1, 2)]
        wait_for(lambda: finished(data, 1, 2) >= 1, "a shard of the first part")
        slurm.command("scontrol", "requeue", tasks[0])
        wait_for(lambda: finished(data, 2, 2) >= 1, "a shard of the second part")
        slurm.command("scancel", "--signal=USR1", "--batch", tasks[1])
        slurm.wait_for(jobs["verify"], *ENDED, timeout_s=240)
    slurm.wait_for(jobs["evaluate"], *ENDED, timeout_s=240)
    logs = "\n".join(path.read_text() for path in sorted(tmp_path.glob("slurm-*.out")))
    rest = [str(jobs[stage]) for stage in list(jobs)[1:]]
    fields = [slurm.job(job) for job in tasks + rest]
    assert [job["JobState"] for job in fields] == ["COMPLETED"] * 7, logs
    assert [job["Restarts"] for job in fields] == ["1", "1", "0", "0", "0", "0", "0"], logs
    assert f"requeued job {tasks[1]} to resume from" in logs

    manifest = read_manifest(data / "manifest.parquet")
    keys = [key for row in manifest for key in row["keys"]]
    assert keys == [f"web-{row:09d}" for row in range(NUM_ROWS) if row != 7]
    assert [(row["listed"], row["num_samples"]) for row in manifest] == [(5, 5), (5, 4), *[(5, 5)] * 6]
    corpus = read_manifest(tmp_path / "data" / "clean" / "manifest.parquet")
    assert [key for row in corpus for key in row["keys"]] == [key for key in keys if key != "web-000000009"]
    run = (tmp_path / "runs" / "tiny" / "config.yaml").read_text()
    assert "data/clean" in run and "data/web" not in run
    status = read_status(tmp_path / "runs" / "tiny")
    assert (status.stage, status.step, status.starts, status.requeues) == ("finished", 6, 1, 0)
    metrics = json.loads((tmp_path / "runs" / "tiny" / "evaluation.json").read_text())
    assert (metrics["num_images"], metrics["num_texts"]) == (NUM_ROWS - 1, NUM_ROWS - 1)
    assert 0 <= metrics["i2t_recall_at_1"] <= 100
