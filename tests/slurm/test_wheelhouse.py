"""The two scripts for clusters without internet, with a small lock: real pip, a real new environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("packaging", "setuptools")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a checkout has and these scripts need; the editable installation leaves its traces there."""
    folder = tmp_path_factory.mktemp("offline") / "project"
    for name in ("albef", "base", "data_prep", "ds_configs", "pipeline", "slurm"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "assets", "site.sh"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    small = [line for line in lines if line.partition("==")[0] in PACKAGES]
    (folder / "requirements.lock").write_text("".join(f"{line}\n" for line in small))
    assert len(small) == len(PACKAGES)
    return folder


def call(tree: Path, script: str, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(tree / "slurm" / script), *map(str, words)],
        cwd=tree.parent,
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=250,
    )


def test_an_environment_comes_out_of_a_folder_and_of_nothing_else(tree: Path) -> None:
    """Fetched here, installed there: the lock's versions and the project; and a wheel that is missing is missed."""
    house = tree.parent / "house"
    made = call(tree, "make_wheelhouse.sh", house)
    assert made.returncode == 0, made.stdout + made.stderr
    wheels = sorted(path.name.split("-")[0] for path in house.glob("*.whl"))
    assert wheels == sorted(PACKAGES)
    assert "2 wheels in" in made.stdout

    installed = call(tree, "install_wheelhouse.sh", house)
    assert installed.returncode == 0, installed.stdout + installed.stderr
    code = (
        "import importlib.metadata as m, data_prep.output.parts, pipeline; "
        "print(m.version('packaging'), m.version('setuptools'), m.version('albef-pipeline'), data_prep.__file__)"
    )
    words = [str(tree / ".venv" / "bin" / "python"), "-P", "-c", code]
    # PYTHONPATH would show it the modules without any installation
    settings = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, cwd=tree.parent, env=settings, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lock = dict(line.split("==") for line in (tree / "requirements.lock").read_text().splitlines())
    versions = [lock["packaging"], lock["setuptools"], "0.1.0", str(tree / "data_prep" / "__init__.py")]
    assert done.stdout.split() == versions

    next(house.glob("packaging-*")).unlink()
    shutil.rmtree(tree / ".venv")
    poorer = call(tree, "install_wheelhouse.sh", house)
    assert poorer.returncode == 2, "pip's own configuration, or an index, has been asked"
    assert f"error: pip could not install from {house}\nhint: " in poorer.stderr


def test_a_folder_of_something_else_stays_as_it_is(tree: Path, tmp_path: Path) -> None:
    """A project with its own lock: refused before pip is asked for anything."""
    (tmp_path / "requirements.lock").write_text("mine")
    (tmp_path / "setup.py").write_text("mine")
    refused = call(tree, "make_wheelhouse.sh", tmp_path)
    assert refused.returncode == 2 and "holds something else than a wheelhouse: setup.py" in refused.stderr
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "requirements.lock": "mine",
        "setup.py": "mine",
    }


def test_a_folder_that_does_not_fit_is_refused(tree: Path, tmp_path: Path) -> None:
    """Half copied, or made for another Python."""
    house = tmp_path / "house"
    house.mkdir()
    done = call(tree, "install_wheelhouse.sh", house)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, f"error: {house} is not a whole wheelhouse")
    (house / "made_for").write_text("cpython-3.9 linux-x86_64\n")
    done = call(tree, "install_wheelhouse.sh", house)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {house} is for cpython-3.9 linux-x86_64, this is cpython-3.")
