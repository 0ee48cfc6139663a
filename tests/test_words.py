"""The words of pages, comments, docstrings, messages and names have the senses that English gives them."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("albef", "base", "benchmarks", "data_prep", "demo", "pipeline", "samples", "slurm", "tests")
FILES = [path for room in ROOMS for kind in ("py", "sh", "yaml") for path in sorted((ROOT / room).rglob(f"*.{kind}"))]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SETTINGS = [ROOT / name for name in ("Makefile", "pyproject.toml", "setup.cfg")]

BANNED = {
    r"\b(go|goes|going|gone|went) on\b(?! the command line)": "resume, continue",
    r"\b(tell(?!$)|telling|tells|told)\b(?! (\w+ ){0,2}apart\b)": "log, print, report, warn",
    r"\b(code|docstring|error|file|folder|it|line|log|message|record|table) (said|say|says)\b": "name, report, state",
    r"\bso (few|long|many|much)\b(?! (as|(\w+ )?that)\b)": "N; this long; the number",
    r"\b(as ever|whatever|whichever|whoever|whomever)\b": "any, as before, the one who",
    r"\b(mend|mended|mending|mends)\b": "fix",
    r"\b(anew|begun)\b": "again, from the start, started",
    r"\b(hopeless|understudies|understudy)\b": "too many, replacement sample",
    r"\brefus(al|als|ed|es|ing)( of)?( a| the)? steps?\b": "skipped step",
    r"\b(held|hold|holding|holds)( \w+)? (against|to)\b": "compare with, check against",
    r"\b(take|taken|takes|taking|took) over\b": "adopt, copy, import",
    r"\blet(s|ting)? go of\b": "free, release",
    r"\b(at hand|of the like|so to say)\b": "the thing itself",
    r"(?<![\w'])(?!(checked|client|fragment|ip|ipv4|ipv6|loopback|memory|metadata|private|server|source|spelled|storage's|"
    r"unspecified)\b)[\w']+ address(es)?\b": "URL, URI, IP address",
}
"""Patterns of words that once stood here in unusual senses, and the words to use instead."""


def prose_of_code(text: str) -> Iterator[str]:
    """The strings, comments and names of a Python file."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    yield "\n".join(token.string for token in tokens if token.type == tokenize.COMMENT)
    for name in {token.string for token in tokens if token.type == tokenize.NAME}:
        yield name.replace("_", " ")


def misused(text: str) -> set[str]:
    """The banned senses in a text, with the words to use; `code` in it is left out."""
    plain = re.sub(r"[\s#]+", " ", re.sub(r"`[^`\n]*`", "`", text))
    found = [(match[0], better) for bad, better in BANNED.items() for match in re.finditer(bad, plain, re.IGNORECASE)]
    return {f"{words}: {better}" for words, better in found}


@pytest.mark.parametrize("room", ROOMS)
def test_code_uses_words_in_their_usual_senses(room: str) -> None:
    """In every string, comment and name."""
    found = {}
    for path in FILES:
        name = str(path.relative_to(ROOT))
        if name.startswith(f"{room}/") and path != Path(__file__):
            text = path.read_text()
            parts = prose_of_code(text) if path.suffix == ".py" else [text]
            found[name] = sorted(set().union(*map(misused, parts)))
    assert {name: words for name, words in found.items() if words} == {}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_use_words_in_their_usual_senses(page: Path) -> None:
    """Outside indented blocks: what a program prints may be quoted."""
    assert misused(re.sub(r"^ {4,}.*$", "", page.read_text(), flags=re.MULTILINE)) == set()


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.name)
def test_settings_use_words_in_their_usual_senses(file: Path) -> None:
    """Their comments."""
    assert misused(file.read_text()) == set()


@pytest.mark.parametrize(
    ("text", "is_misuse"),
    [
        ("the run goes\n    on", True),
        ("def test_a_run_goes_on(): pass", True),
        ("# options go on the command line", False),
        ("it takes so many steps that it ends", False),
        ("a list of addresses", True),
        ("each IP address it resolves to", False),
        ("these two cannot be told apart", False),
    ],
)
def test_a_sense_is_found_by_its_context(text: str, is_misuse: bool) -> None:
    """Across lines and in names; the usual senses of the same words pass."""
    assert bool(misused(text.replace("_", " "))) is is_misuse
