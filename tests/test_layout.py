"""The lists of files that folders carry, against the files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("albef", "base", "data_prep", "demo", "pipeline", "samples")
FOLDERS = sorted({path.parent for package in PACKAGES for path in (ROOT / package).rglob("*.py")})
MAX_FILES = 13
"""In one folder, so that a newcomer sees it at a glance."""


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_every_folder_lists_its_files(folder: Path) -> None:
    """Its `__init__.py` says what lives there, then has one line a file, in their order. (`__main__.py` needs none.)"""
    docstring = re.match(r'"""(.*?)"""', (folder / "__init__.py").read_text(), re.DOTALL)
    assert docstring, "no docstring"
    listed = re.findall(r"^(\w+) {2,}\S", docstring[1], re.MULTILINE)
    assert listed == sorted(path.stem for path in folder.glob("*.py") if not path.name.startswith("__"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(ROOT)))
def test_no_folder_is_a_drawer(folder: Path) -> None:
    """Few enough files to see at a glance."""
    files = [path for path in folder.glob("*.py") if not path.name.startswith("__")]
    assert len(files) <= MAX_FILES, files


def test_the_slurm_page_lists_the_scripts() -> None:
    """`slurm/*.sh` are no Python files: docs/slurm.md has a line for each."""
    listed = re.findall(r"^    slurm/(\S+\.sh) {2,}\S", (ROOT / "docs" / "slurm.md").read_text(), re.MULTILINE)
    there = [path.name for path in (ROOT / "slurm").glob("*.sh") if path.name != "site.sh"]
    assert sorted(listed) == sorted(there)
