"""`order`: what it prints is what training records, for every world size and number of workers."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pipeline import cli
from tests.pipeline.data.test_loader import make_loader, play
from tests.support.ranks import run_ranks
from tests.support.shards import write_corpus
from tests.support.tiny_run import tiny_recipe
from tests.support.training_runs import losses
from tests.support.worker_note import WorkerNote
from tests.support.wrapped_task import WrappedTask, pretrain_with

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than processors

SHAPE = ["--seed", "5", "--global-batch-size", "8", "--micro-batch-size", "2", "--shuffle-window-shards", "2"]
"""The loader of test_loader: four lanes of two, a window of two shards."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """47 samples: five steps of eight an epoch."""
    return write_corpus(tmp_path_factory.mktemp("corpus"), [20, 9, 1, 17])


def order(capsys, *arguments: str | Path) -> list[dict]:
    """The command's JSON lines."""
    assert cli.main(["order", *map(str, arguments), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_it_prints_what_the_loaders_record(corpus, capsys, world_size, num_workers):
    """Keys, ranks and workers of seven steps across an epoch's end, started at step 3, for each rank's real loader."""
    lines = order(
        capsys, corpus, *SHAPE, "--steps", "3:10", "--world-size", str(world_size), "--num-workers", str(num_workers)
    )
    assert [(line["step"], line["epoch"], line["step_of_epoch"]) for line in lines] == [
        (step, step // 5, step % 5) for step in range(3, 10)
    ]
    share = 4 // world_size
    for rank in range(world_size):
        lanes = range(rank * share, (rank + 1) * share)
        loader = make_loader(corpus, lanes=lanes, num_workers=num_workers)
        loader._builder = WorkerNote(**vars(loader._builder))
        for line, step in zip(lines, play(loader, 3, 7), strict=True):
            mine = [lane for lane in line["lanes"] if lane["rank"] == rank]
            assert [lane["lane"] for lane in mine] == list(lanes)
            assert [lane["keys"] for lane in mine] == [batch.keys for batch in step.lanes]
            assert [str(lane["worker"]) for lane in mine] == [batch.captions[0] for batch in step.lanes]


def test_keys_do_not_depend_on_ranks_and_workers(corpus, capsys):
    """The same text to the letter, lanes in order, for every world size and number of workers."""
    texts = set()
    for world_size in ("1", "2", "4"):
        for num_workers in ("0", "1", "3"):
            flags = ["--world-size", world_size, "--num-workers", num_workers, "--epoch", "1", "--steps", "0:2"]
            assert cli.main(["order", str(corpus), *SHAPE, *flags]) == 0
            texts.add(capsys.readouterr().out)
    (text,) = texts
    first, second = text.splitlines()
    assert first.startswith("step 5 (epoch 1, step 0): lane 0: 0000000")
    assert second.count(" | lane ") == 3
    assert len(second.split(": ", 1)[1].replace("|", "").split()) == 4 * 4  # "lane", its number, two keys


def test_steps_count_within_the_epoch_or_over_all(corpus, capsys):
    """Step 2 of epoch 3 is step 17 of the run; one number is one step."""
    inside = order(capsys, corpus, *SHAPE, "--epoch", "3", "--steps", "2")
    assert inside == order(capsys, corpus, *SHAPE, "--steps", "17:18")
    assert inside[0]["step"] == 17 and len(inside) == 1


def test_weights_and_several_manifests(corpus, tmp_path, capsys):
    """Shares 3 : 1 of two sources: three quarters of every step's keys come from the first."""
    other = write_corpus(tmp_path / "other", [11, 12], source="other")
    lines = order(capsys, corpus, other, *SHAPE, "--steps", "0:5", "--weights", "3,1")
    for line in lines:
        names = [key for lane in line["lanes"] for key in lane["keys"]]
        assert sum(name.startswith("made/") for name in names) == 6
        assert sum(name.startswith("other/") for name in names) == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", "2:2"], "--steps 2:2 holds no step"),
        (["--steps", "two"], "--steps two is no range of steps"),
        (["--steps", "4:6", "--epoch", "0"], "epoch 0 has 5 steps, 0 to 4"),
        (["--steps", "0:1", "--epoch", "-1"], "--epoch -1 is less than 0"),
        (["--steps", "0:1", "--world-size", "3"], "4 lanes cannot be shared evenly by 3 ranks"),
        (["--steps", "0:1", "--micro-batch-size", "3"], "--global-batch-size 8 is not a whole number of lanes"),
        (["--steps", "0:1", "--num-workers", "-1"], "--num-workers -1 is less than 0"),
        (["--steps", "0:1", "--weights", "1,1"], "--weights has 2 numbers for 1 sources"),
        (["--steps", "0:1", "--weights", "much"], "--weights much is no list of numbers"),
        (["--steps", "0:1", "--global-batch-size", "64"], "47 samples, fewer than one global batch of 64"),
        (["--steps", "0:1", "--wold-size", "2"], "unrecognized arguments"),
        ([], "--steps"),
    ],
)
def test_wrong_flags_are_refused(corpus, capsys, flags, message):
    """error: with what is wrong, hint: with the way out, exit 2, nothing on stdout."""
    assert cli.main(["order", str(corpus), *SHAPE, *flags]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and message in printed.err and "hint: " in printed.err


def test_it_needs_no_torch_and_no_shards(corpus, tmp_path):
    """The manifest alone is enough, on a machine without torch: importing it is an error here."""
    (tmp_path / "manifest.parquet").write_bytes(corpus.read_bytes())
    code = (
        "import sys; sys.modules['torch'] = None; from pipeline.cli import main;"
        f"sys.exit(main(['order', {str(tmp_path)!r}, *{SHAPE!r}, '--steps', '0:1']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("step 0 (epoch 0, step 0): lane 0: ")


def train_and_record(rank: int, _world_size: int, recipe: str, run_dir: str, overrides: list[str]) -> list[list]:
    """One rank of `pretrain`; returns (step, lane, keys) of each micro-batch that its training step was given."""
    seen = []

    def record(task, engine, batch, at):
        seen.append([at.step, at.lane, batch.keys])
        return task.losses(engine, batch, at)

    assert pretrain_with(partial(WrappedTask, lane=record), recipe, run_dir, overrides) == 0
    return seen


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_training_takes_the_printed_steps_with_equal_losses(tmp_path, capsys):
    """Four lanes on 1, 2 and 4 gloo ranks, the one with 3 workers: the printed keys, and the losses of one rank.

    1e-6: sums of gradients are taken in another order.
    """
    recipe = tiny_recipe(tmp_path)
    lines = order(
        capsys,
        tmp_path / "shards",
        *("--seed", "0", "--global-batch-size", "8", "--micro-batch-size", "2", "--steps", "0:4"),
    )
    printed = {(line["step"], lane["lane"]): lane["keys"] for line in lines for lane in line["lanes"]}
    found = {}
    for ranks, num_workers in ((1, 3), (2, 0), (4, 0)):
        run_dir = tmp_path / f"ranks_{ranks}"
        overrides = ["--batch.micro_batch_size=2", "--max_steps=4", f"--data.num_workers={num_workers}"]
        per_rank = run_ranks(
            train_and_record, ranks, str(recipe), str(run_dir), overrides, process_group=False, timeout_s=280
        )
        assert {(step, lane): keys for seen in per_rank for step, lane, keys in seen} == printed
        found[ranks] = losses(run_dir)
    assert len(found[1]) == 4
    for ranks in (2, 4):
        for step, expected in found[1].items():
            assert found[ranks][step] == pytest.approx(expected, rel=1e-6), f"{ranks} ranks, step {step}"
    # The same command on other data under the same path: refused before a step is taken.
    write_corpus(tmp_path / "shards", [20, 16, 13])
    with pytest.raises(RuntimeError, match=r"holds a run on other data: 48 samples .* then, 49 samples"):
        run_ranks(train_and_record, 1, str(recipe), str(tmp_path / "ranks_1"), overrides, process_group=False)
