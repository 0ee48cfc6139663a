"""The error of a command of the pipeline."""

from __future__ import annotations

import pytest

from pipeline.cli import main


def refusal(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The `error:` and `hint:` of a command that must exit 2."""
    capsys.readouterr()
    assert main(arguments) == 2
    printed = capsys.readouterr().err
    assert "error: " in printed
    assert "hint: " in printed
    assert "Traceback" not in printed
    return printed
