"""The commands in docs/slurm.md: what they name exists, and the chain is what its dry run prints."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from data_prep.cli import build_parser
from pipeline import cli
from pipeline.config.flags import RecipeParser
from pipeline.config.resolve import load_config, recipe_keys
from pipeline.config.run_config import DEFAULT_TASK, RUNS

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = {
    "download.sh": "data_prep download",
    "verify.sh": "data_prep verify",
    "filter.sh": "data_prep filter",
    "pretrain.sh": "pipeline pretrain",
    "finetune.sh": "pipeline finetune",
    "pipeline.sh": "pipeline pretrain",
    "export.sh": "pipeline export",
    "evaluate.sh": "pipeline evaluate",
}
OWN = {"pipeline.sh": {"--dry-run", "--local"}}


def commands() -> list[list[str]]:
    """The words of each command of the page, continued lines joined."""
    text = (ROOT / "docs" / "slurm.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line) for line in lines]


def flags_of(command: str, task: str = DEFAULT_TASK) -> set[str]:
    """Every flag that `data_prep NAME` or `pipeline NAME` takes, with the keys of the task's recipes."""
    package, name = command.split()
    if package == "data_prep":
        return set(build_parser()[1][name].flags())
    parser = RecipeParser()
    importlib.import_module(cli.COMMANDS[name][0]).add_arguments(parser)
    keys = {f"--{key.name}" for key in recipe_keys(task)} if name in cli.TAKES_RECIPE else set()
    return keys | set(parser.flags())


def flags_in(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if word.startswith("--")}


def test_the_page_has_commands_for_every_script() -> None:
    """Every script is there, except those that the others source."""
    named = {Path(word).name for words in commands() for word in words if word.endswith(".sh")}
    there = {path.name for path in (ROOT / "slurm").glob("*.sh")}
    assert named == there - {"lib.sh", "training.sh", "site.example.sh", "site.sh"}


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_what_a_command_names_exists(words: list[str]) -> None:
    """Settings stand in the script's head, flags belong to the command it runs, recipes ship with the project."""
    settings = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
    rest = words[len(settings) :]
    if rest[0] == "python":
        assert flags_in(rest) <= flags_of(f"{rest[2]} {rest[3]}")
        return
    assert rest[0] in ("sbatch", "bash")
    at = next(number for number, word in enumerate(rest) if word.endswith(".sh"))
    path, after = ROOT / rest[at], rest[at + 1 :]
    head = subprocess.run(["bash", str(path), "--help"], capture_output=True, text=True, check=True).stdout
    assert [name for name in settings if not re.search(rf"\b{name}=", head)] == []
    assert (rest[0] == "sbatch") == ("#SBATCH" in path.read_text()), "jobs are submitted, the rest is not"
    if path.name not in COMMANDS:
        return
    task = after.pop(0) if path.name == "finetune.sh" else DEFAULT_TASK
    assert task in RUNS
    assert flags_in(after) - OWN.get(path.name, set()) <= flags_of(COMMANDS[path.name], task)
    for name, value in settings.items():
        if name.endswith("_FLAGS"):
            stage = name.removesuffix("_FLAGS").lower()
            assert flags_in(shlex.split(value)) <= flags_of(COMMANDS[f"{stage}.sh"])
    if COMMANDS[path.name] in ("pipeline pretrain", "pipeline finetune"):
        recipe = next(word for word in after if not word.startswith("--"))
        assert load_config(recipe).task == task


def test_the_chain_s_dry_run_is_accepted(tmp_path: Path) -> None:
    """The first command of the page as it stands, where there is a Slurm and where there is none."""
    words = next(words for words in commands() if "--dry-run" in words)
    (tmp_path / "cc3m.tsv").touch()
    number = next(number for number, word in enumerate(words) if "=" not in word)
    # `true` in place of Python: the recipe and its flags are checked above, without the seconds of importing torch
    settings = os.environ | dict(word.split("=", 1) for word in words[:number]) | {"PYTHON": "true"}
    line = [*words[number:]]
    line[1] = str(ROOT / line[1])
    done = subprocess.run(line, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 5
