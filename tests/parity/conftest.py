"""Prints which goldens are used."""

from __future__ import annotations

from tests.parity.goldens import folder


def pytest_report_header() -> str:
    return f"goldens: {folder()}"
