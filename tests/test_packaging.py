"""What is installed: the lock, the extras, the contents of the wheel."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return dict(line.split("==") for line in lines)


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def requirements(group: str) -> list[Requirement]:
    config = setup_cfg()
    text = config["options"]["install_requires"] if group == "base" else config["options.extras_require"][group]
    return [Requirement(line) for line in text.split("\n") if line]


def test_the_lock_names_packages_and_versions_and_nothing_else() -> None:
    """No registry, no URL, no path, no wheel of one machine; sorted, each name once."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if not re.fullmatch(r"[a-z0-9-]+==[0-9][a-z0-9.]*", line)] == []
    assert lines == sorted(set(lines), key=lambda line: line.split("==")[0])


@pytest.mark.parametrize("group", ["base", "data", "spark", "train", "dev"])
def test_the_lock_has_every_requirement_in_a_version_it_allows(group: str) -> None:
    """What `make venv` installs satisfies what setup.cfg asks for."""
    locked = lock()
    unmet = [
        str(requirement)
        for requirement in requirements(group)
        if not requirement.specifier.contains(locked.get(canonicalize_name(requirement.name), "0"), prereleases=True)
    ]
    assert unmet == []


def test_a_download_node_gets_no_torch() -> None:
    """Neither the base install nor the `data` extra asks for it."""
    names = {requirement.name for group in ("base", "data") for requirement in requirements(group)}
    assert names.isdisjoint({"torch", "torchvision", "deepspeed", "timm", "transformers"})


def test_the_wheel_holds_the_packages_with_their_data_and_no_tests(tmp_path: Path) -> None:
    """Vocabulary, recipes and DeepSpeed JSONs travel with the code; both commands are installed."""
    tree = tmp_path / "tree"
    kept = ("albef", "base", "data_prep", "demo", "pipeline", "samples", "ds_configs", "tests")
    for name in kept:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "pictures.zip"))
    for name in ("setup.cfg", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tree / name)
    code = "from setuptools import setup; setup()"
    words = [sys.executable, "-c", code, "--quiet", "bdist_wheel", "--dist-dir", str(tmp_path)]
    done = subprocess.run(words, cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        names = wheel.namelist()
        entry_points = next(name for name in names if name.endswith("entry_points.txt"))
        commands = wheel.read(entry_points).decode()
    source = {
        str(path.relative_to(ROOT))
        for package in ("albef", "base", "data_prep", "pipeline", "samples")
        for path in (ROOT / package).rglob("*.py")
    }
    data = {
        str(path.relative_to(ROOT))
        for pattern in ("albef/assets/**/*", "base/*.css", "pipeline/*/*/*.yaml", "ds_configs/*.json")
        for path in ROOT.glob(pattern)
        if path.is_file()
    }
    assert data
    assert source | data <= set(names)
    assert [name for name in names if name.startswith("tests")] == []
    assert "albef-pipeline = pipeline.cli:main" in commands and "data-prep = data_prep.cli:main" in commands


def test_the_changelog_has_the_version() -> None:
    """setup.cfg and CHANGELOG.md speak of the same release."""
    version = setup_cfg()["metadata"]["version"]
    assert re.search(rf"^## .*\b{re.escape(version)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_ruff_and_setuptools_agree_on_the_oldest_python() -> None:
    """One lower bound in two files."""
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["target-version"]
    oldest = re.search(r">=3\.(\d+)", setup_cfg()["options"]["python_requires"])
    assert oldest is not None and target == f"py3{oldest[1]}"


def test_pre_commit_runs_tools_of_the_lock() -> None:
    """Hooks are the environment's own programs: one version of each, and no network."""
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == ["local"]
    programs = {hook["entry"].split()[0] for repo in hooks for hook in repo["hooks"]}
    assert all(program.startswith(".venv/bin/") for program in programs)
    assert {"ruff", "shellcheck", "codespell"} <= {program.removeprefix(".venv/bin/") for program in programs}


def test_no_shipped_file_names_a_registry_or_this_machine() -> None:
    """The environment decides where packages come from."""
    pattern = re.compile(r"index-url|find-links|/simple/?\b(?=\s|$)", re.IGNORECASE)
    files = ["Makefile", "setup.cfg", "pyproject.toml", "requirements.lock", ".ci/run", ".pre-commit-config.yaml"]
    assert [name for name in files if pattern.search((ROOT / name).read_text())] == []


def test_deepspeed_sums_the_gradients_of_all_ranks() -> None:
    """The releases that left gradients out are refused (the comment in setup.cfg), by setup.cfg and so by the lock."""
    deepspeed = next(requirement for requirement in requirements("train") if requirement.name == "deepspeed")
    assert not deepspeed.specifier.contains("0.19.7") and deepspeed.specifier.contains("0.19.8")


def test_the_citation_is_of_this_version_and_of_the_paper() -> None:
    """CITATION.cff 1.2.0: its required keys, the version and licence of setup.cfg, the paper as what to cite."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    metadata = setup_cfg()["metadata"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", metadata["version"])
    assert citation["license"] == metadata["license"]
    paper = citation["preferred-citation"]
    assert paper["title"].startswith("Align before Fuse") and paper["year"] == 2021
    assert paper["authors"][0]["family-names"] == "Li"


def test_the_dockerfile_installs_the_lock_on_a_python_that_is_supported() -> None:
    """No image is built here: the instructions are Docker's, what is copied exists, and nothing runs as root."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    lines = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert {name for name, _ in lines} <= {"FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}
    of = {name: [rest for kind, rest in lines if kind == name] for name, _ in lines}
    (image,) = of["FROM"]
    version = re.fullmatch(r"python:(3\.\d+)-slim-\w+", image)
    assert version is not None
    assert Requirement(f"python{setup_cfg()['options']['python_requires']}").specifier.contains(f"{version[1]}.0")
    assert all((ROOT / words.split()[0]).exists() for words in of["COPY"])
    assert any("requirements.lock" in words for words in of["RUN"])
    assert of["USER"][-1].split(":")[0] not in ("0", "root")
