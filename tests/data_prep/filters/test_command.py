"""`data_prep filter` as a user types it: mistakes, output, and the commands and rules of docs/filters.md."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

from data_prep.cli import build_parser, main
from data_prep.commands.filter import COUNTS, SHARES
from data_prep.filters.settings import RULES, FilterSettings
from tests.support.filtering import detailed, kept, pack

PAGE = Path(__file__).parents[3] / "docs" / "filters.md"

MISTAKES = {
    "no folder": (["--out", "x"], "the following arguments are required: DIR"),
    "a set without a path": (["d", "--out", "x", "--decontaminate", "coco"], "coco is not NAME=PATH"),
    "a set twice": (["d", "--out", "x", "--decontaminate", "a=b", "--decontaminate", "a=c"], "a=c is not NAME=PATH"),
    "images of no set": (["d", "--out", "x", "--images", "coco=/data"], "--images coco=... is of no --decontaminate"),
    "no such rule": (["d", "--out", "x", "--off", "near_duplicates"], "invalid choice: 'near_duplicates'"),
    "an aspect below one": (["d", "--out", "x", "--max-aspect", "0.5"], "--max-aspect 0.5 is below 1"),
    "a share above one": (["d", "--out", "x", "--min-letters", "50"], "50 is not between 0 and 1"),
    "a URI": (["s3://bucket/cc3m", "--out", "x"], "works on a disk only"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_with_a_way_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words, message = MISTAKES[name]
    assert main(["filter", *words]) == 2
    printed = capsys.readouterr().err
    assert message in printed and "hint: " in printed and "Traceback" not in printed


def test_the_command_filters_and_reports_what_it_dropped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Counts by rule, with a set of evaluation images."""
    folder = pack(tmp_path, "web", [(detailed(number % 3, 90, 80), "a picture") for number in range(4)])
    (tmp_path / "test").mkdir()
    detailed(2, 90, 80).save(tmp_path / "test" / "two.png")
    words = ["filter", folder, "--out", tmp_path / "corpus", "--decontaminate", f"test={tmp_path / 'test'}"]
    assert main([*map(str, words), "--processes", "1"]) == 0
    printed = capsys.readouterr().out
    assert "web: listed 4, failed 0, stored 4" in printed
    dropped = r"dropped +1 +25.0%  decontamination\n  dropped +1 +25.0%  exact_duplicate\n"
    assert re.search(dropped + r"  kept +2 +50.0%", printed)
    assert kept(tmp_path / "corpus") == ["web-000000000", "web-000000001"]


def test_every_setting_is_a_flag() -> None:
    """Except for the rules that are off, which --off lists."""
    assert {field.name for field in dataclasses.fields(FilterSettings)} == {*COUNTS, *SHARES, "max_aspect", "off"}


def test_the_page_names_the_rules_and_defaults_that_there_are() -> None:
    """Its commands parse, its table has every rule in the order in which they judge, and every default."""
    text = PAGE.read_text(encoding="utf-8")
    parser, _ = build_parser()
    commands = re.findall(r"^    python -m data_prep ((?:.+\\\n)*.+)$", text, re.MULTILINE)
    assert commands
    for command in commands:
        parser.parse_args(shlex.split(command.replace("\\\n", " "), comments=True))
    assert re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE) == list(RULES)
    for name in (*COUNTS, *SHARES, "max_aspect"):
        value = getattr(FilterSettings(), name)
        assert f"`--{name.replace('_', '-')}` ({value:g})" in text, name
