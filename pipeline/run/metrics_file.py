"""Reading metrics.jsonl without trusting it: a power cut, a full disk or an editor may have damaged lines.

A line is an object with `step` and with numbers, or null, by name. Any other line is damaged: readers skip it, and the
next start moves it to a separate file.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from albef.errors import ConfigError
from base import atomic_file
from pipeline.run.retrying_file import RetryingFile
from samples.json_text import parse_json

log = logging.getLogger(__name__)

MAX_LINE = 1 << 20
"""Bytes of the longest line that is parsed; ours have less than a thousand."""
MAX_BACK = 64 << 20
"""Bytes from the end of a file that are searched for its last line."""
BLOCK = 1 << 16
SET_ASIDE = "metrics_set_aside.jsonl"
"""Beside metrics.jsonl: damaged lines, and the lines of a run that was started again from step 0. Nothing reads it."""


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The values of a line; None when it is damaged, cut short or still being written."""
    if len(line) > MAX_LINE:
        return None
    try:
        values = parse_json(line)
    except ValueError:
        return None
    if not isinstance(values, dict) or not all(value is None or _is_number(value) for value in values.values()):
        return None
    step = values.get("step")
    return values if isinstance(step, int) and step >= 0 else None


def newest_first(path: Path) -> Iterator[dict[str, Any]]:
    """The valid lines, last one first, of a file that another process may be writing; reads the file only as needed.

    Raises: OSError when there is a file that cannot be read.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in _backwards(file):
            if (values := parse_line(line)) is not None:
                yield values


def truncate_jsonl(path: Path, step: int) -> dict[str, Any]:
    """Keep the lines up to `step`, the checkpoint's: the run repeats the steps after it.

    Moves damaged lines to SET_ASIDE, and all lines if `step` is negative, because a run that starts again from its
    first step repeats them all. metrics.jsonl is replaced atomically, after that.

    Returns: the last training line that is kept, or an empty dict.
    Raises: OSError when the files cannot be read or written, ConfigError when `path` is not a file.
    """
    if not path.is_file():
        if os.path.lexists(path):
            raise ConfigError(f"{path} is not a file", "move it away: training writes its metrics there")
        if step > 0:
            log.warning("%s is missing: the lines up to step %d are lost", path, step)
        return {}
    kept: list[str] = []
    aside: list[bytes] = []
    num_damaged = 0
    last: dict[str, Any] = {}
    content = path.read_bytes()
    for line in filter(None, content.split(b"\n")):
        values = parse_line(line)
        if values is None:
            num_damaged += 1
        elif values["step"] <= step:
            kept.append(line.decode("utf-8-sig"))
            last = values if "train/loss" in values else last
        if values is None or step < 0:
            aside.append(line)
    if aside:
        RetryingFile(path.with_name(SET_ASIDE)).write(b"".join(line + b"\n" for line in aside))
        log.log(
            logging.WARNING if num_damaged else logging.INFO,
            "%s: %d lines, %d of them damaged, are moved to %s",
            *(path, len(aside), num_damaged, SET_ASIDE),
        )
    text = "".join(f"{line}\n" for line in kept)
    if text.encode() != content:
        atomic_file.write_text(path, text)
    return last


def _backwards(file: BinaryIO) -> Iterator[bytes]:
    """The last line first, whether or not it is finished."""
    position = file.seek(0, os.SEEK_END)
    end = max(0, position - MAX_BACK)
    rest = b""
    while position > end:
        size = min(BLOCK, position)
        position -= size
        file.seek(position)
        first, *lines = (file.read(size) + rest).split(b"\n")
        rest = first if len(first) <= MAX_LINE else first[-MAX_LINE - 1 :]  # already too long, and stays too long
        yield from reversed(lines)
    yield rest


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # NaN compares False
