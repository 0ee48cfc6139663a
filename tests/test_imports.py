"""Who may import whom (CONTRIBUTING, "The rooms"): read from the source, and for data_prep also seen at run time."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("albef", "base", "data_prep", "demo", "pipeline", "samples")
MODEL_MAY_IMPORT = {
    "albef",
    "base",
    "samples",
    "torch",
    "triton",
    "timm",
    "transformers",
    "numpy",
    "PIL",
    "safetensors",
}
NO_NAMES = {"utils.py", "util.py", "helpers.py", "misc.py", "common.py", "logging.py"}


def imports(package: str) -> Iterator[tuple[str, str]]:
    """(file:line, top-level name) of every import, those inside functions too."""
    for path in sorted((ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""] if node.level == 0 else [package]
            for name in names:
                yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}", name.split(".")[0]


def test_the_model_imports_only_what_a_model_needs() -> None:
    """albef: torch, timm, transformers and what they bring; no DeepSpeed, no tar files, no pipeline."""
    allowed = MODEL_MAY_IMPORT | set(sys.stdlib_module_names)
    assert [(where, name) for where, name in imports("albef") if name not in allowed] == []


def test_base_is_the_ground_floor() -> None:
    """base: what all commands share imports the standard library alone, and so runs wherever Python does."""
    allowed = {"base"} | set(sys.stdlib_module_names)
    assert [(where, name) for where, name in imports("base") if name not in allowed] == []


def test_samples_is_the_floor_above() -> None:
    """samples: what all packages agree on imports none of them but base, and nothing that a download node lacks."""
    allowed = {"base", "samples", "numpy", "PIL"} | set(sys.stdlib_module_names)
    assert [(where, name) for where, name in imports("samples") if name not in allowed] == []


def test_data_prep_stands_alone() -> None:
    """data_prep meets the others through files and `samples` only, and a download node has no torch."""
    forbidden = {"albef", "pipeline", "demo", "torch", "torchvision", "deepspeed", "timm", "transformers"}
    assert [(where, name) for where, name in imports("data_prep") if name in forbidden] == []


def test_pipeline_never_imports_data_prep() -> None:
    """Shards and manifest are all that training sees of ingestion."""
    assert [(where, name) for where, name in imports("pipeline") if name in {"data_prep", "demo"}] == []


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "pipeline"])
def test_only_pipeline_imports_deepspeed(package: str) -> None:
    """A model can be loaded, and data made, where DeepSpeed is not installed."""
    assert [where for where, name in imports(package) if name == "deepspeed"] == []


def test_no_package_imports_the_tests() -> None:
    """What the product needs does not live in tests/."""
    assert [where for package in PACKAGES for where, name in imports(package) if name == "tests"] == []


def test_files_are_named_after_their_idea() -> None:
    """No drawer for odds and ends, and no name that shadows the standard library's."""
    assert [path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name in NO_NAMES] == []


def test_the_data_prep_command_line_loads_no_torch() -> None:
    """Seen at run time, through everything it imports: torch costs 500 MB in every download worker."""
    code = "import data_prep.cli, sys; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
