"""The links of README, CONTRIBUTING, CHANGELOG and docs/: each leads to a file, and to a heading, that exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DOCS]


def links(page: Path) -> list[str]:
    """Targets of the page's links, but those into the web. Text in code may stand between the brackets."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"\[[^\]]+\]\(([^)\s]+)\)", text)
    return [target for target in found if not re.match(r"https?://", target)]


def anchors(page: Path) -> set[str]:
    """The anchors of its headings, as GitHub makes them: lower case, hyphens for blanks, punctuation dropped."""
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """Files and folders exist; so do the headings after `#`."""
    broken = []
    for target in links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_is_named_exists(page: Path) -> None:
    """Paths in code spans, from the project's folder: a file that moves is renamed on the pages as well."""
    rooms = "albef|benchmarks|data_prep|demo|ds_configs|pipeline|samples|slurm|tests"
    named = re.findall(rf"`((?:{rooms})/[a-z0-9_./-]+\.(?:css|json|md|py|sh|yaml))`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists() and name != "slurm/site.sh"] == []


def test_every_test_that_a_page_names_exists() -> None:
    """`FILE::NAME` in code spans: docs/traps.md has a test for each of its rows."""
    named = [found for page in PAGES for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text())]
    gone = [name for file, name in named if not re.search(rf"^def {name}\(", (ROOT / file).read_text(), re.MULTILINE)]
    assert gone == [] and len(named) > 20
    rows = re.findall(r"^\| (\d+) \|.*::.*\|$", (ROOT / "docs" / "traps.md").read_text(), re.MULTILINE)
    assert rows == [str(number) for number in range(1, 16)]


@pytest.mark.parametrize(("page", "prefix"), [(ROOT / "README.md", "docs/"), (ROOT / "docs" / "index.md", "")])
def test_readme_and_index_lead_to_every_page(page: Path, prefix: str) -> None:
    """No page that only those who know its name can find."""
    linked = {target.partition("#")[0] for target in links(page)}
    assert {f"{prefix}{other.name}" for other in DOCS if other != page} <= linked


def test_the_readme_fits_its_length() -> None:
    """A front door of 230 lines at most; what is longer is a page of docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 230


def test_the_weights_page_names_the_files_of_the_recipes() -> None:
    """docs/weights.md fetches what `init` of the paper's recipes names."""
    text = (ROOT / "docs" / "weights.md").read_text()
    for recipe in ("albef_4m", "albef_14m"):
        recipe_text = (ROOT / "pipeline" / "config" / "recipes" / f"{recipe}.yaml").read_text()
        paths = re.findall(r"^  (?:image|text): (\S+)$", recipe_text, re.MULTILINE)
        assert len(paths) == 2 and [path for path in paths if path not in text] == []
