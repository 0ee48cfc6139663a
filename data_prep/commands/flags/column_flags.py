"""Flags that name the columns of a user's list: a URL for `download`, a path for `pack`."""

from __future__ import annotations

import argparse
from typing import Any, Literal

from data_prep.lists.list_columns import ListColumns


def add_column_flags(parser: argparse.ArgumentParser, where: Literal["url", "path"]) -> None:
    """`--url-col` or `--path-col`, and the others; see `list_columns`."""
    what = "URL" if where == "url" else "path of a local image"
    parser.add_argument(
        f"--{where}-col", dest="image_col", default=where, metavar="NAME", help=f"column of the {what} ({where})"
    )
    parser.add_argument(
        "--caption-col",
        action="append",
        metavar="NAME",
        help="column of the caption or list of captions; repeat it for several (default: caption)",
    )
    parser.add_argument("--id-col", metavar="NAME", help="column of the source's own name for an image")
    parser.add_argument("--licence-col", metavar="NAME", help="column of the image's licence")
    parser.add_argument("--columns", metavar="A,B", help="names of the columns of a TSV or CSV without a header")


def column_values(flags: argparse.Namespace, where: Literal["url", "path"]) -> dict[str, Any]:
    """The given values by flag, for the job's record."""
    return {
        f"--{where}-col": flags.image_col,
        "--caption-col": flags.caption_col or ["caption"],
        "--id-col": flags.id_col,
        "--licence-col": flags.licence_col,
        "--columns": flags.columns,
    }


def list_columns(flags: argparse.Namespace, where: Literal["url", "path"]) -> ListColumns:
    """The columns that the flags name."""
    return ListColumns(
        url=flags.image_col,
        captions=tuple(flags.caption_col or ["caption"]),
        names=None if flags.columns is None else tuple(flags.columns.split(",")),
        id=flags.id_col,
        licence=flags.licence_col,
        local=where == "path",
    )
