"""What a command of the pipeline says when it refuses."""

from __future__ import annotations

import pytest

from pipeline.cli import main


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The `error:` and `hint:` of a command that must exit 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert "hint: " in said
    assert "Traceback" not in said
    return said
