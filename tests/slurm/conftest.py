"""A real Slurm, started once, and a small project to submit from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.local_slurm import LocalSlurm, missing_programs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSlurm]:
    """Two nodes of 8 claimed processors each. Without Slurm's packages: a failure where CI=true, elsewhere a skip."""
    if missing := missing_programs():
        reason = f"no {', '.join(missing)}: apt-get install --no-install-recommends slurm-wlm munge"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with LocalSlurm(tmp_path_factory.mktemp("slurm"), nodes=2) as cluster:
        yield cluster


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The real slurm/ folder beside stubs of the packages: every exit code in turn, without seconds of imports.

    Its path has a blank, a quote, an accent and what a shell or torchrun would replace.
    """
    return make_project(tmp_path / "a  project's $HOME $$ é")


def make_project(folder: Path) -> Path:
    """What `project` is, in a new folder."""
    shutil.copytree(ROOT / "slurm", folder / "slurm", ignore=shutil.ignore_patterns("site.sh"))
    for package, stub in (("pipeline", "stub_trainer.py"), ("data_prep", "stub_data_prep.py")):
        (folder / package).mkdir()
        (folder / package / "__init__.py").touch()
        shutil.copy(Path(__file__).with_name(stub), folder / package / "__main__.py")
    (folder / "pipeline" / "train.py").touch()
    return folder
