"""The scripts of the stages on a machine without Slurm, and what all of them have in common."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path.name for path in (ROOT / "slurm").glob("*.sh"))
COMMANDS = sorted(set(SCRIPTS) - {"lib.sh", "training.sh", "site.example.sh", "site.sh"})
LIST = ("--urls", "list.tsv", "--out", "data")


def call(project: Path, script: str, *words: str, where: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return subprocess.run(
        ["bash", str(project / "slurm" / script), *words],
        cwd=where,
        env={**clean, "PYTHON": sys.executable, **settings},
        capture_output=True,
        text=True,
        timeout=120,
    )


def data_prep_calls(output: str) -> list[str]:
    return [line.removeprefix("data_prep ") for line in output.splitlines() if line.startswith("data_prep ")]


@pytest.mark.parametrize("script", COMMANDS)
def test_without_arguments_a_script_explains_what_to_type(script: str, tmp_path: Path) -> None:
    """Exit 2, nothing made; and --help is its own head, with its settings and exit codes."""
    done = call(ROOT, script, where=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(r"error: no \w+ given\nhint: .*\n", done.stderr), done.stderr
    assert re.search(rf"slurm/{script} ", done.stderr)
    help_ = call(ROOT, script, "--help", where=tmp_path)
    assert help_.returncode == 0
    assert all(f"\n{title}" in help_.stdout for title in ("Settings from the environment", "Exit codes: "))
    assert f"slurm/{script} " in help_.stdout and "set -euo" not in help_.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_script_names_a_site(script: str) -> None:
    """Account, partition and the like are the command line's; and every setting a job has in the file is explained."""
    options = re.findall(r"^#SBATCH (--[a-z-]+)", (ROOT / "slurm" / script).read_text(), re.MULTILINE)
    known = {"job-name", "array", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "time", "signal", "open-mode"}
    assert {option.removeprefix("--") for option in options} <= known | {"requeue", "output"}
    jobs = {"download.sh", "verify.sh", "filter.sh", "pretrain.sh", "finetune.sh", "export.sh", "evaluate.sh"}
    assert bool(options) == (script in jobs)


@pytest.mark.parametrize("script", COMMANDS)
def test_a_script_that_left_its_folder_reports_it(script: str, tmp_path: Path) -> None:
    """Without lib.sh beside it, and without Slurm to ask where it came from."""
    shutil.copy(ROOT / "slurm" / script, tmp_path)
    alone = tmp_path / "slurm"
    alone.mkdir()
    (tmp_path / script).rename(alone / script)
    done = call(tmp_path, script, "x", where=tmp_path)
    assert done.returncode == 2
    assert "error: no lib.sh beside" in done.stderr and "hint: " in done.stderr


def test_download_runs_the_whole_list_or_part_after_part(project: Path, tmp_path: Path) -> None:
    """PARTS cuts it, PART takes one; the first part that fails ends it with its exit code."""
    flags = ("--urls list.tsv --out data",)

    def calls(*more: str, **settings: str) -> tuple[int, list[str]]:
        done = call(project, "download.sh", *LIST, *more, where=tmp_path, **settings)
        return done.returncode, data_prep_calls(done.stdout)

    assert calls() == (0, [f"download --part 1/1 {flags[0]}"])
    assert calls(PARTS="3") == (0, [f"download --part {number}/3 {flags[0]}" for number in (1, 2, 3)])
    assert calls(PARTS="3", PART="2") == (0, [f"download --part 2/3 {flags[0]}"])
    code, made = calls("--exit-part", "2/3", "--exit-code", "1", PARTS="3")
    assert (code, len(made)) == (1, 2)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"PARTS": "three"}, "error: PARTS=three is not a number of parts"),
        ({"PARTS": "3", "PART": "4"}, "error: there is no part 4 of 3"),
        ({"PARTS": "3", "PART": "0"}, "error: there is no part 0 of 3"),
    ],
)
def test_download_refuses_parts_that_are_none(
    project: Path, tmp_path: Path, settings: dict[str, str], error: str
) -> None:
    done = call(project, "download.sh", *LIST, where=tmp_path, **settings)
    assert done.returncode == 2 and done.stderr.startswith(error), done.stderr


def test_download_needs_a_place(project: Path, tmp_path: Path) -> None:
    done = call(project, "download.sh", "--urls", "list.tsv", where=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: no --out given\nhint: sbatch")
    done = call(project, "download.sh", "--urls", "list.tsv", "--out", "s3://bucket/web", where=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: --out s3://bucket/web is a URI")


def test_verify_filter_export_and_evaluate_pass_on_what_they_get(project: Path, tmp_path: Path) -> None:
    """The commands with their flags, from any folder; evaluate on as many ranks as asked for."""
    done = call(project, "verify.sh", "data", "--sample", "0.5", where=tmp_path)
    assert (done.returncode, data_prep_calls(done.stdout)) == (0, ["verify data --sample 0.5"])
    done = call(project, "filter.sh", "data", "more data", "--out", "corpus", where=tmp_path)
    assert (done.returncode, data_prep_calls(done.stdout)) == (0, ["filter data more data --out corpus"])
    done = call(project, "export.sh", "runs/toy", "--out", "model", where=tmp_path)
    assert done.returncode == 0 and "export rank 0 ['--out', 'model']" in done.stdout
    done = call(project, "evaluate.sh", "retrieval", "--out", "deep/er/metrics.json", where=tmp_path, NPROC="2")
    assert done.returncode == 0, done.stderr
    assert all(f"evaluate rank {rank} " in done.stdout for rank in range(2))
    assert [path.name for path in (tmp_path / "deep" / "er").iterdir()] == ["metrics.json"]
    done = call(project, "evaluate.sh", "retrieval", "--out", "m.json", "--fail", "1", where=tmp_path, NPROC="2")
    assert done.returncode == 3, "the rank's code, not its launcher's"


CHAIN = {"URLS": "web.tsv", "EVALUATE_FLAGS": "--annotations 'a b.json' --images /coco", "NPROC": "1"}


def quoted(path: Path) -> str:
    """As bash types it."""
    return subprocess.run(["bash", "-c", 'printf %q "$0"', path], capture_output=True, text=True, check=True).stdout


def chain(project: Path, where: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    (where / "web.tsv").touch()
    return call(project, "pipeline.sh", *words, where=where, **{**CHAIN, **settings})


def test_the_chain_runs_here_stage_after_stage(project: Path, tmp_path: Path) -> None:
    """All five, in their order, each with its place from the ones before; words in quotes stay together."""
    done = chain(project, tmp_path, "--local", "toy", "--steps", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.findall(r"^== (\w+)", done.stdout, re.MULTILINE) == [
        "download",
        "verify",
        "pretrain",
        "export",
        "evaluate",
    ]
    assert data_prep_calls(done.stdout) == ["download --part 1/1 --urls web.tsv --out data/web", "verify data/web"]
    assert (tmp_path / "runs" / "toy" / "checkpoints" / "latest").read_text() == "step_00000002"
    assert (tmp_path / "models" / "toy").exists() and (tmp_path / "runs" / "toy" / "evaluation.json").exists()
    assert "evaluate rank 0 ['--model', 'models/toy', '--out', 'runs/toy/evaluation.json', " in done.stdout
    assert "'--annotations', 'a b.json', '--images', '/coco']" in done.stdout


def test_the_chain_ends_with_the_stage_that_fails(project: Path, tmp_path: Path) -> None:
    """Its exit code is the chain's; nothing after it begins."""
    done = chain(project, tmp_path, "--local", "toy", DOWNLOAD_FLAGS="--exit-part 2/2 --exit-code 1", PARTS="2")
    assert done.returncode == 1
    assert "error: stage download ended with exit code 1" in done.stderr
    assert "== verify" not in done.stdout


def test_a_stopped_chain_stops_its_stage(project: Path, tmp_path: Path) -> None:
    """SIGTERM to the chain reaches the ranks: saved, 75, and the same command resumes."""
    (tmp_path / "web.tsv").touch()
    words = ["bash", str(project / "slurm" / "pipeline.sh"), "--local", "toy", "--steps", "100000"]
    settings = {**os.environ, **CHAIN, "PYTHON": sys.executable, "STAGES": "pretrain export"}
    running = subprocess.Popen(
        words, cwd=tmp_path, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    latest = tmp_path / "runs" / "toy" / "checkpoints" / "latest"
    deadline = time.monotonic() + 60
    while not latest.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGTERM)
    output, _ = running.communicate(timeout=60)
    assert running.returncode == 75, output
    hint = "hint: to resume there, give the same command with STAGES='pretrain export'"
    assert f"error: stage pretrain ended with exit code 75\n{hint}" in output
    assert "== export" not in output
    done = int(latest.read_text().removeprefix("step_"))
    again = chain(project, tmp_path, "--local", "toy", "--steps", str(done + 2), STAGES="pretrain export")
    assert again.returncode == 0 and f"at step {done} " in again.stdout


def test_a_dry_run_prints_the_commands_and_makes_nothing(project: Path, tmp_path: Path) -> None:
    """As they would be submitted, each waiting for the one before; with a stage's own options, and jobs to wait for."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "sbatch").write_text("#!/bin/sh\nexit 1\n")  # there, and never called
    (binaries / "sbatch").chmod(0o755)
    done = chain(
        project,
        tmp_path,
        "--dry-run",
        "toy",
        "--resume",
        "must",
        "--seed",
        "3",
        PATH=f"{binaries}:{os.environ['PATH']}",
        PRETRAIN_SBATCH="--nodes=2 --comment='two words'",
        DOWNLOAD_FLAGS="--columns caption,url",
        PARTS="16",
        AFTER="4:5",
    )
    assert done.returncode == 0, done.stderr
    wait = "--kill-on-invalid-dep=yes"
    download, verify, pretrain, export, evaluate = (
        quoted(project / "slurm" / f"{stage}.sh") for stage in ("download", "verify", "pretrain", "export", "evaluate")
    )
    assert done.stdout.splitlines() == [
        f"sbatch --parsable --array=1-16 --dependency=afterok:4:5 {wait} {download} "
        "--urls web.tsv --out data/web --columns caption\\,url",
        f"sbatch --parsable --dependency=afterok:ID_OF_DOWNLOAD {wait} {verify} data/web",
        f"sbatch --parsable --dependency=afterok:ID_OF_VERIFY {wait} --nodes=2 --comment=two\\ words "
        f"{pretrain} toy --data.manifests data/web --resume must --seed 3 --run-dir runs/toy",
        f"sbatch --parsable --dependency=afterok:ID_OF_PRETRAIN {wait} {export} runs/toy --out models/toy",
        f"sbatch --parsable --dependency=afterok:ID_OF_EXPORT {wait} {evaluate} retrieval --model models/toy "
        "--out runs/toy/evaluation.json --annotations a\\ b.json --images /coco",
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"bin", project.name, "web.tsv"}


def test_with_a_corpus_the_shards_are_filtered_before_training(project: Path, tmp_path: Path) -> None:
    """FILTER_FLAGS may begin with further folders; without the stage itself, training still reads the corpus."""
    settings = {"CORPUS": "data/clean", "FILTER_FLAGS": "data/sbu --min-side 100", "PARTS": "1"}
    done = chain(project, tmp_path, "--local", "toy", "--steps", "2", **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "== verify" in done.stdout and done.stdout.index("== filter") < done.stdout.index("== pretrain")
    assert data_prep_calls(done.stdout)[1:] == [
        "verify data/web",
        "filter data/web data/sbu --min-side 100 --out data/clean",
    ]
    rest = chain(project, tmp_path, "--dry-run", "--local", "toy", **settings, STAGES="pretrain")
    assert (
        f"{quoted(project / 'slurm' / 'pretrain.sh')} toy --data.manifests data/clean --run-dir runs/toy" in rest.stdout
    )


@pytest.mark.parametrize(
    ("words", "settings", "error"),
    [
        (["toy", "--typo"], {}, "error: --typo is not a flag or a key"),
        (["--dry"], {}, "error: --dry is not an option of this script"),
        (["toy"], {"URLS": ""}, "error: download has no list"),
        (["toy"], {"URLS": "gone.tsv"}, "error: there is no list gone.tsv"),
        (["toy"], {"EVALUATE_FLAGS": ""}, "error: evaluate has nothing to evaluate on"),
        (["toy"], {"STAGES": "verify train"}, "error: there is no stage train"),
        (["toy"], {"STAGES": "verify"}, "error: verify has no folder"),
        (["toy"], {"STAGES": "filter", "CORPUS": "clean"}, "error: filter has no folder"),
        (["toy"], {"STAGES": "filter", "DATA": "data/web"}, "error: filter has no folder to write to"),
        (
            ["toy"],
            {"DOWNLOAD_FLAGS": "--columns 'a"},
            "error: DOWNLOAD_FLAGS has a quote that does not close: --columns 'a",
        ),
    ],
)
def test_mistakes_are_reported_before_anything_starts(
    project: Path, tmp_path: Path, words: list[str], settings: dict[str, str], error: str
) -> None:
    """Settings and recipe alike: error, hint, exit 2, and no stage has started."""
    done = chain(project, tmp_path, "--local", *words, **settings)
    assert done.returncode == 2
    assert done.stderr.startswith(error) and "\nhint: " in done.stderr, done.stderr
    assert done.stdout == ""


def test_what_no_earlier_stage_makes_is_named_before_anything_begins(project: Path, tmp_path: Path) -> None:
    """Shards and run of stages that are left out, in a dry run as well. With a job to wait for they may yet come."""
    missing = {"STAGES": "verify export evaluate", "DATA": "data/none"}
    done = chain(project, tmp_path, "--dry-run", "--local", "toy", **missing)
    assert (done.returncode, done.stdout) == (2, "")
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert errors == [
        "error: verify has no shards: there is no folder data/none",
        "error: export has no run: there is no folder runs/toy",
    ]
    later = chain(project, tmp_path, "--dry-run", "--local", "toy", **missing, AFTER="4")
    assert later.returncode == 0 and len(later.stdout.splitlines()) == 3, later.stderr


def test_starting_weights_that_are_missing_are_named_before_anything_begins(tmp_path: Path) -> None:
    """The real check of a recipe of the paper, in a dry run: both files of `init` (docs/weights.md)."""
    done = chain(ROOT, tmp_path, "--dry-run", "--local", "albef_4m", STAGES="pretrain", AFTER="1")
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    for name in ("deit_base_patch16_224-b5f2ef4d.pth", "bert-base-uncased"):
        assert f"error: weights/{name} does not exist" in done.stderr


def test_the_check_can_be_left_out(project: Path, tmp_path: Path) -> None:
    """For login nodes on which the project does not run: the job then reports the recipe's mistake."""
    done = chain(project, tmp_path, "--dry-run", "--local", "toy", "--typo", CHECK="no")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 5
