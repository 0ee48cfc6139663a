"""Files that the product reads cannot run code: every reader that could is called so that it does not."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CODE = ("albef", "base", "benchmarks", "data_prep", "demo", "pipeline", "samples", "slurm")
RUN_CODE = {
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "marshal.loads",
    "shelve.open",
    "yaml.load",
    "yaml.unsafe_load",
}


def unsafe_calls(source: str) -> list[str]:
    """Calls in Python source that may run what a file holds, as `line: call`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {option.arg: ast.unparse(option.value) for option in node.keywords}
        loads_weights = name == "torch.load" and options.get("weights_only") != "True"
        if name in RUN_CODE or loads_weights or options.get("allow_pickle", "False") != "False":
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("package", CODE)
def test_nothing_read_from_a_file_can_run_code(package: str) -> None:
    """torch.load only with weights_only=True, NumPy without pickles, YAML by the safe loader, no pickle at all."""
    paths = sorted((ROOT / package).rglob("*.py"))
    found = {str(path.relative_to(ROOT)): unsafe_calls(path.read_text()) for path in paths}
    assert {path: calls for path, calls in found.items() if calls} == {}


def test_the_loader_of_recipes_is_a_safe_one() -> None:
    """And it makes nothing of tags."""
    import yaml

    from pipeline.config import recipe_yaml

    assert issubclass(recipe_yaml._Loader, yaml.SafeLoader)
    with pytest.raises(yaml.YAMLError, match="constructor"):
        recipe_yaml.load_yaml("!!python/object/apply:os.getcwd []")


def test_unsafe_calls_are_found() -> None:
    """The finder finds."""
    source = "torch.load(a)\ntorch.load(a, weights_only=True)\nnp.load(a, allow_pickle=True)\nyaml.load(a, Loader)\n"
    assert [line.split(":")[0] for line in unsafe_calls(source)] == ["1", "3", "4"]
