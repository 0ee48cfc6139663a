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
    """One node of 8 claimed processors. Without Slurm's packages: a failure where CI=true, elsewhere a skip."""
    if missing := missing_programs():
        reason = f"no {', '.join(missing)}: apt-get install --no-install-recommends slurm-wlm munge"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with LocalSlurm(tmp_path_factory.mktemp("slurm")) as cluster:
        yield cluster


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The real slurm/ folder beside a stub trainer: every exit code in turn, without seconds of imports."""
    folder = tmp_path / "project"
    shutil.copytree(ROOT / "slurm", folder / "slurm", ignore=shutil.ignore_patterns("site.sh"))
    (folder / "pipeline").mkdir()
    (folder / "pipeline" / "__init__.py").touch()
    (folder / "pipeline" / "train.py").touch()
    shutil.copy(Path(__file__).with_name("stub_trainer.py"), folder / "pipeline" / "__main__.py")
    return folder
