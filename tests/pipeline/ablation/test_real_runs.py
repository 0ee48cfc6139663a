"""`pipeline ablate` with the real trainer on a small noisy world: equal budgets, the switches, and kill -9."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from data_prep import cli as data_prep
from demo.world.__main__ import main as write_world
from pipeline import cli
from pipeline.ablation import command
from pipeline.ablation.runs import Command
from pipeline.config.resolve import differences, load_config
from tests.support.ranks import run_ranks
from tests.support.tiny_run import TINY_MODEL

SEED, STEPS, SCENES = 3, 16, 100
ROWS = ("mlm_itm", "distill_mlm", "distill_downstream")
LAUNCHED = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A hundred training scenes, four of ten with the captions of another, and their shards."""
    out = tmp_path_factory.mktemp("ablation") / "world"
    assert write_world([str(out), "--noise", "0.4", "--scenes", str(SCENES), "--held-out", "100"]) == 0
    lists, images = out / "annotations" / "pretrain_train.json", out / "images.zip"
    packed = ["pack", "--annotations", str(lists), "--images", str(images), "--source", "world", "--processes", "1"]
    assert data_prep.main([*packed, "--out", str(out / "shards")]) == 0
    return out


@pytest.fixture(scope="module")
def plan(world: Path) -> Path:
    """Three rows, one seed, a model of half a minute's tests, zero-shot retrieval and SNLI-VE."""
    annotations, images = world / "annotations", str(world / "images.zip")
    recipe = {
        "max_steps": STEPS,
        "model": TINY_MODEL,
        "objective": {"queue_size": 20, "max_text_tokens": 21},
        "data": {"manifests": [str(world / "shards")], "num_workers": 0},
        "batch": {"global_batch_size": 8, "micro_batch_size": 4},
        "schedule": {"warmup_steps": 2},
        "deepspeed": {"config": "zero0_fp32"},
        "checkpoint": {"save_every": 2},
        "logging": {"log_every": 1, "images_every": 0, "tensorboard": False},
    }
    (world / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    values = {
        "seeds": [SEED],
        "rows": list(ROWS),
        "from_pretraining": ["model", "batch", "schedule", "deepspeed", "logging", "data.num_workers"],
        "pretraining": {"recipe": str(world / "recipe.yaml")},
        "zero_shot": {
            "annotations": str(annotations / "retrieval_test.json"),
            "images": images,
            "captions": "first",
            "k_test": 100,
        },
        "snli_ve": {
            "recipe": "snli_ve",
            "overrides": {
                "max_steps": 4,
                "data": {"annotations": [str(annotations / "ve_train.json")], "images": [images]},
            },
            "annotations": str(annotations / "ve_test.json"),
            "images": images,
        },
    }
    path = world / "plan.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def run_words(_rank: int, _size: int, words: tuple[str, ...]) -> int:
    """`python -m pipeline WORDS` in a forked rank, which has imported the trainer."""
    os.environ.update(LAUNCHED)
    return cli.main(list(words))


@pytest.fixture(scope="module")
def done(world: Path, plan: Path) -> Path:
    """The folder of the whole ablation; each command ran in a process that was forked instead of started."""

    def run_command(one: Command, _launch: str | None) -> int:
        code: int = run_ranks(run_words, 1, one.words, process_group=False, timeout_s=250)[0]
        return code

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(command, "run_command", run_command)
        assert cli.main(["ablate", str(plan), "--run-dir", str(world / "runs")]) == 0
    return world / "runs"


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "train/loss" in line]


def test_the_noise_reaches_the_shards(world: Path) -> None:
    """Of 100 scenes 40 have all captions of another one, the others all of their own; `verify` passes."""
    assert data_prep.main(["verify", str(world / "shards"), "--processes", "1"]) == 0
    own = defaultdict(set)
    for row in json.loads((world / "annotations" / "retrieval_train.json").read_text()):
        own[row["image"]].add(row["caption"])
    exchanged = 0
    with tarfile.open(next((world / "shards" / "shards").glob("*.tar"))) as shard:
        samples = [json.load(shard.extractfile(name)) for name in shard.getnames() if name.endswith(".json")]  # type: ignore[arg-type]
    assert len(samples) == SCENES
    for sample in samples:
        of = [image for image, captions in own.items() if set(sample["captions"]) <= captions]
        exchanged += sample["url"] not in of
        assert of
    assert exchanged == 0.4 * SCENES


@pytest.mark.timeout(900)
def test_rows_differ_by_their_switches_and_have_equal_budgets(done: Path) -> None:
    """By the runs' own records: equal steps, samples and recipes but for the switches; losses that are off or on."""
    first, last = (load_config(done / row / str(SEED) / "pretraining" / "config.yaml") for row in ROWS[:2])
    assert differences(first, last) == {
        f"objective.{name}": (False, True) for name in ("itc", "hard_negatives", "distill_itc", "distill_mlm")
    }
    for row in ROWS[:2]:
        lines = metrics(done / row / str(SEED) / "pretraining")
        assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
        assert lines[-1]["data/samples_seen"] == STEPS * 8
        assert all((line["train/loss_itc"] > 0) == (row != "mlm_itm") for line in lines)
        assert all(line["train/loss_itm"] > 0 and line["train/loss_mlm"] > 0 for line in lines)
    tuned = {row: load_config(done / row / str(SEED) / "snli_ve" / "config.yaml") for row in ROWS}
    assert set(differences(tuned["mlm_itm"], tuned["distill_mlm"])) == {"init.model"}
    assert differences(tuned["distill_mlm"], tuned["distill_downstream"]) == {"objective.distill": (False, True)}
    ends = [metrics(done / row / str(SEED) / "snli_ve")[-1] for row in ROWS]
    assert [(line["step"], line["data/samples_seen"]) for line in ends] == [(4, 32)] * 3
    assert not (done / "distill_downstream" / str(SEED) / "pretraining").exists()


def test_the_table_is_what_was_evaluated(done: Path) -> None:
    """Accuracy and recalls as `evaluate` wrote them, of all 100 candidates."""
    table = json.loads((done / "table.json").read_text())
    for row in table["rows"]:
        folder = done / row["row"] / str(SEED)
        assert row["scores"]["SNLI-VE"]["by_seed"] == {
            str(SEED): json.loads((folder / "snli_ve.json").read_text())["accuracy"]
        }
        model = done / ("distill_mlm" if row["row"] == "distill_downstream" else row["row"]) / str(SEED)
        zero_shot = json.loads((model / "zero_shot.json").read_text())
        assert row["scores"]["zero-shot IR@1"]["mean"] == zero_shot["t2i_recall_at_1"]
        recalls = [zero_shot[f"i2t_recall_at_{at}"] for at in (1, 5, 10)]
        assert row["scores"]["zero-shot TR"]["mean"] == pytest.approx(sum(recalls) / 3, rel=1e-12)
    assert "sorts all candidates" in (done / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_and_resumed_it_writes_the_same_table(world: Path, plan: Path, done: Path) -> None:
    """One row again, by the command of a user: kill -9 of it and its trainer in the middle, then once more."""
    again = world / "again"
    shutil.copytree(done, again)
    shutil.rmtree(again / "mlm_itm")
    for name in ("table.json", "table.md"):
        (again / name).unlink()
    words = [sys.executable, "-m", "pipeline", "ablate", str(plan), "--run-dir", str(again)]
    with (world / "killed.log").open("w") as log:
        started = subprocess.Popen(words, env=os.environ | LAUNCHED, stderr=log, stdout=log, start_new_session=True)
    latest = again / "mlm_itm" / str(SEED) / "pretraining" / "checkpoints" / "latest"
    deadline = time.monotonic() + 250
    while not latest.exists() and time.monotonic() < deadline and started.poll() is None:
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert latest.exists(), (world / "killed.log").read_text()
    assert int(latest.read_text().removeprefix("step_")) < STEPS
    assert not (again / "table.json").exists()
    ended = subprocess.run(words, env=os.environ | LAUNCHED, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr
    assert "resuming from" in ended.stderr or "resuming from" in _logs(again)
    for name in ("table.json", "table.md"):
        assert (again / name).read_bytes() == (done / name).read_bytes()


def _logs(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.glob("mlm_itm/*/pretraining/logs/*/rank_0.log"))
