"""`--min-yield`, which every command that makes or lists samples takes."""

from __future__ import annotations

import argparse

from base import flag_types


def add_min_yield(parser: argparse.ArgumentParser, default: float, what: str) -> None:
    """`--min-yield`. `what` completes its help: exit with 1 when a smaller share of ..."""
    parser.add_argument(
        "--min-yield",
        type=flag_types.share,
        default=default,
        metavar="F",
        help=f"exit with 1 when a smaller share of {what}, or none ({default:g})",
    )
