"""The README's map of the files against the files."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAPPED = ("albef/**/*.py", "data_prep/**/*.py", "demo/**/*.py", "pipeline/**/*.py", "samples/**/*.py", "slurm/*.sh")


def test_every_file_has_one_line_in_the_readme_and_every_line_a_file() -> None:
    """The map is complete, and nothing in it is gone. (`__init__.py` and `__main__.py` go without saying.)"""
    text = (ROOT / "README.md").read_text()
    rooms = "albef|data_prep|demo|pipeline|samples|slurm"
    listed = re.findall(rf"^    ((?:{rooms})/\S+\.(?:py|sh)) {{2,}}\S", text, re.MULTILINE)
    there = {
        str(path.relative_to(ROOT))
        for pattern in MAPPED
        for path in ROOT.glob(pattern)
        if not path.name.startswith("__") and path.name != "site.sh"
    }
    assert sorted(listed) == sorted(set(listed))
    assert set(listed) - there == set(), "in README.md, but not there"
    assert there - set(listed) == set(), "there, but not in README.md"


def test_every_folder_says_what_lives_there() -> None:
    """Each package's `__init__.py` opens with a docstring."""
    rooms = {path.parent for pattern in MAPPED for path in ROOT.glob(pattern) if path.suffix == ".py"}
    for room in rooms:
        assert (room / "__init__.py").read_text().startswith('"""'), room
