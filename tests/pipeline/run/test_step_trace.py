"""`logging.profile`: the steps that are asked for, with their parts, in a file that a viewer can read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from albef.errors import ConfigError
from pipeline.config.sections import LogConfig
from tests.support.training_runs import WITHOUT_DROPOUT, run

PARTS = ["forward", "backward", "forward", "backward", "check", "optimizer", "advance"]
"""Of a step with two lanes."""


def test_the_trace_has_the_steps_and_their_parts_in_order(tmp_path: Path) -> None:
    """A real run of four steps of which 1 and 2 are asked for: JSON with a span for each part, inside its step's."""
    run(tmp_path, "run", overrides=["--logging.profile=1:3", *WITHOUT_DROPOUT])
    (file,) = (tmp_path / "run" / "profile").iterdir()
    assert file.name == "steps_1_3.pt.trace.json.gz"
    events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    spans = [event for event in events if event.get("cat") == "user_annotation"]
    steps = {event["name"]: event for event in spans if event["name"].startswith("ProfilerStep#")}
    assert sorted(steps) == ["ProfilerStep#1", "ProfilerStep#2"]
    for step in steps.values():
        begin, end = step["ts"], step["ts"] + step["dur"]
        inside = [each for each in spans if each["name"] in PARTS and begin <= each["ts"] <= end]
        assert [each["name"] for each in sorted(inside, key=lambda each: each["ts"])] == PARTS
    assert any(event.get("cat") == "cpu_op" for event in events)


@pytest.mark.parametrize("text", ["5", "3:3", "4:2", "a:b", "-1:4", "1:2:3", ""])
def test_what_is_no_range_of_steps_is_an_error(text: str) -> None:
    """With the way out."""
    with pytest.raises(ConfigError, match="is not a range of steps A:B"):
        LogConfig(profile=text)


def test_without_the_key_nothing_is_recorded() -> None:
    """No step is in the range."""
    assert not LogConfig().profiled_steps and list(LogConfig(profile="7:9").profiled_steps) == [7, 8]
