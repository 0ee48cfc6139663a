"""argparse types of the values of flags, with their errors."""

from __future__ import annotations

import argparse


def positive(text: str) -> int:
    """1 or more."""
    value = _number(text, int)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(value)


def count(text: str) -> int:
    """0 or more."""
    value = _number(text, int)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return int(value)


def seconds(text: str) -> float:
    """Above 0, and finite."""
    value = _number(text, float)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


def share(text: str) -> float:
    """From 0 to 1."""
    value = _number(text, float)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def quality(text: str) -> int:
    """Of a JPEG, from 1 to 95."""
    value = _number(text, int)
    if not 1 <= value <= 95:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 95")
    return int(value)


def _number(text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error
