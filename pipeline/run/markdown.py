"""Untrusted text in Markdown, for model cards and TensorBoard's text page: shown verbatim, never as markup."""

from __future__ import annotations

import re

from samples.quote import quote

MARKUP = re.compile(r"[\\`*\[\]|#~]")
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def as_text(value: object, limit: int = 200) -> str:
    """`value` on one line, shortened, for a heading or a table's cell: no HTML, link, emphasis or end of the cell."""
    shown = MARKUP.sub(lambda found: "\\" + found[0], quote(value, limit))
    return re.sub("[&<>]", lambda found: ENTITIES[found[0]], shown)


def as_code(value: object, limit: int = 200) -> str:
    """`value` in a span of code within a table's cell, which it cannot end."""
    return "`" + quote(value, limit).replace("`", "'").replace("|", "\\|") + "`"
