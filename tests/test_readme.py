"""The README's commands, run or checked as the comment before each block says ("How this page is tested")."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from pipeline.config.recipe import shipped_recipes
from tests.support.shards import picture

ROOT = Path(__file__).resolve().parent.parent
COPIED = ("albef", "base", "data_prep", "ds_configs", "pipeline", "slurm")
NUM_PICTURES = 128  # one global batch of the demo's recipe


class Block(NamedTuple):
    """A fenced block, and how it is tested."""

    check: str
    language: str
    code: str


def blocks() -> list[Block]:
    text = (ROOT / "README.md").read_text()
    pattern = r"(?:<!-- test: (\w+) -->\n)?^```(bash|python)\n(.*?)^```"
    return [Block(*found) for found in re.findall(pattern, text, re.MULTILINE | re.DOTALL)]


def commands(check: str) -> list[list[str]]:
    """The words of each command in the bash blocks of that kind."""
    lines = [line for block in blocks() if block.check == check for line in block.code.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_every_block_says_how_it_is_tested() -> None:
    """No command on the page escapes the tests."""
    assert {block.check for block in blocks()} == {"install", "make", "model", "names", "run"}


@pytest.mark.parametrize("words", commands("install"), ids=" ".join)
def test_what_is_installed_is_an_extra_of_the_project(words: list[str]) -> None:
    """By uv or pip, from the project's folder; what the extras hold is tested in test_packaging."""
    assert words[:-1] in (["uv", "pip", "install", "-e"], ["pip", "install", "-e"])
    extra = re.fullmatch(r"\.\[(\w+)\]", words[-1])
    assert extra is not None and extra[1] in setup_cfg()["options.extras_require"]


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_make_targets_expand(words: list[str]) -> None:
    """The target exists and its recipe can be expanded."""
    assert words[0] == "make"
    done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("words", commands("names"), ids=" ".join)
def test_what_a_command_names_exists(words: list[str]) -> None:
    """For commands that need a cluster or the internet: the module, its flags, the script, the recipe."""
    if words[0] == "sbatch":
        script = next(number for number, word in enumerate(words) if word.endswith(".sh"))
        assert (ROOT / words[script]).is_file()
        assert words[script + 1] in shipped_recipes()
        return
    scripts = dict(
        re.findall(r"^([\w-]+) = (\w+)\.cli:main$", setup_cfg()["options.entry_points"]["console_scripts"], re.M)
    )
    if words[0] in ("python", "torchrun"):
        package, command, *rest = words[words.index("-m") + 1 :]
    else:
        package, command, *rest = [scripts[words[0]], *words[1:]]
    listed = subprocess.run(
        [sys.executable, "-m", package, command, "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert listed.returncode == 0, listed.stderr
    flags = [word for word in rest if word.startswith("--")]
    assert [flag for flag in flags if not re.search(rf"{flag}\b", listed.stdout)] == []
    assert package != "pipeline" or rest[0] in shipped_recipes()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_blocks_run_in_their_order(tmp_path: Path) -> None:
    """Pictures become shards, shards a run, the run a model, the model numbers: as a reader would type it.

    The block that loads the model stands above those that make it, and runs last.
    """
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "site.sh"))
    (tmp_path / "pictures").mkdir()
    entries = []
    for number in range(NUM_PICTURES):
        picture(number, 320, 300).save(tmp_path / "pictures" / f"{number:03d}.jpg")
        entries.append({"image": f"{number:03d}.jpg", "caption": f"picture number {number}"})
    (tmp_path / "pairs.json").write_text(json.dumps(entries))
    settings = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "NPROC": "1",
    }
    in_order = [block for check in ("run", "model") for block in blocks() if block.check == check]
    for block in in_order:
        words = ["bash", "-euo", "pipefail", "-c", block.code] if block.language == "bash" else None
        words = words or [sys.executable, "-c", block.code]
        done = subprocess.run(words, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{block.code}\n{done.stdout}\n{done.stderr}"
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_images"] == NUM_PICTURES


def test_what_the_troubleshooting_quotes_is_printed() -> None:
    """The first quotation of each row, without its numbers, is in the code: a reader finds the row by it."""
    section = re.search(r"^## Troubleshooting\n(.*?)^## ", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None
    quoted = re.findall(r"^\| [^|]*?`([^`|]+)`", section[1], re.MULTILINE)
    rows = [line for line in section[1].splitlines() if line.startswith("| ")]
    assert len(quoted) == len(rows) - 2
    files = [
        *(path for package in ("albef", "base", "data_prep", "pipeline") for path in (ROOT / package).rglob("*.py"))
    ]
    code = "\n".join(path.read_text() for path in [*files, *(ROOT / "slurm").glob("*.sh")])
    for text in quoted:
        parts = [part.strip() for part in re.split(r"\b[\w./-]*\d[\w./-]*", text) if len(part.strip()) > 4]
        assert parts, text
        assert [part for part in parts if part not in code] == [], text
