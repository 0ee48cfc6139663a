"""`meta.json`: the facts and the files of a checkpoint, with its own checksum.

Format 2 has the SHA-256 of its other values, so that a flipped bit in it is detected. Format 1, of earlier runs, has
none; there every type is checked, and the step against the folder's name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from albef.errors import CheckpointError
from base import atomic_file
from samples.json_text import parse_json
from samples.plain_file import read_plain
from samples.quote import quote

FORMAT = 2
META = "meta.json"
MAX_META_BYTES = 64 << 20
"""Largest size of meta.json. At some 150 bytes per file and two files per rank, no run has as many ranks."""
CHECKSUM = "checksum"
USE_ANOTHER = "use another checkpoint of the run"

_STEP = re.compile(r"step_([0-9]{8,})")
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class CheckpointMeta:
    """The content of a checkpoint's `meta.json`."""

    format: int
    run_name: str
    step: int
    """Optimizer steps taken."""
    epoch: int
    samples_seen: int
    world_size: int
    zero_stage: int
    precision: str
    config_hash: str
    created: str
    """UTC, ISO 8601."""
    files: dict[str, dict[str, Any]]
    """name -> {"bytes": int, "sha256": str}, every file of the folder but meta.json itself and `made_by_pipeline.*`."""


def step_tag(step: int) -> str:
    """The folder name of a step's checkpoint: `step_00001000`."""
    return f"step_{step:08d}"


def step_of(name: str) -> int | None:
    """The step whose checkpoint has this folder name; None for any other name, such as that of a copy."""
    match = _STEP.fullmatch(name)
    return int(match[1]) if match and step_tag(int(match[1])) == name else None


def new_meta(**facts: Any) -> CheckpointMeta:
    """A CheckpointMeta with the current time; its files are filled in once they are written."""
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return CheckpointMeta(format=FORMAT, created=created, files={}, **facts)


def write_meta(folder: Path, meta: CheckpointMeta) -> None:
    """Write a checkpoint's `meta.json` by an atomic rename.

    Raises: OSError when it cannot be written.
    """
    values = dataclasses.asdict(meta)
    atomic_file.write_json(folder / META, values | {CHECKSUM: _checksum(values)})


def read_meta(folder: Path) -> CheckpointMeta:
    """The `meta.json` of a checkpoint folder.

    Raises: CheckpointError when it is missing (the save was never finished), cannot be read, is damaged, names another
        step than the folder, or has a format that this version cannot read.
    """
    path = folder / META
    try:
        values = parse_json(read_plain(path, MAX_META_BYTES))
        fault = _fault(values)
    except FileNotFoundError:
        raise CheckpointError(
            f"{folder} is not a finished checkpoint: it has no {META}",
            "name a step_* folder that has one, or the run folder to take the newest whole checkpoint",
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {quote(error)}", USE_ANOTHER) from None
    if fault:
        raise CheckpointError(f"{path} is damaged: {fault}", USE_ANOTHER)
    if values["format"] not in (1, FORMAT):
        raise CheckpointError(
            f"{path} is of format {quote(values['format'])}, this version reads formats 1 and {FORMAT}",
            "it was written by another version of this pipeline; use that version, or another checkpoint",
        )
    meta = CheckpointMeta(**{name: value for name, value in values.items() if name != CHECKSUM})
    if (step := step_of(folder.name)) is not None and step != meta.step:
        raise CheckpointError(f"{path} is of step {meta.step}, the folder is of step {step}", USE_ANOTHER)
    return meta


def _checksum(values: dict[str, Any]) -> str:
    """SHA-256 of all values but the checksum, in hexadecimal; white space and order do not matter."""
    rest = {name: value for name, value in values.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _fault(values: Any) -> str:
    """What is wrong with the content of a meta.json; empty if nothing is, or if its format is a later one."""
    if not isinstance(values, dict) or not _is_count(values.get("format"), least=1):
        return "it names no format"
    if values["format"] > FORMAT:
        return ""
    fields = {field.name for field in dataclasses.fields(CheckpointMeta)}
    wanted = fields | {CHECKSUM} if values["format"] > 1 else fields
    if values.keys() != wanted:
        return f"its keys are not those of format {values['format']}: {quote(sorted(values.keys() ^ wanted))}"
    if values["format"] > 1 and values[CHECKSUM] != _checksum(values):
        return "its content does not match its checksum"
    for name in ("run_name", "precision", "config_hash", "created"):
        if not isinstance(values[name], str):
            return f"{name} is not a text"
    for name, least in (("step", 0), ("epoch", 0), ("samples_seen", 0), ("world_size", 1), ("zero_stage", 0)):
        if not _is_count(values[name], least=least):
            return f"{name} is {quote(values[name])}"
    return _fault_of_files(values["files"])


def _fault_of_files(files: Any) -> str:
    if not isinstance(files, dict):
        return "files is not a table"
    for name, facts in files.items():
        if not _FILE_NAME.fullmatch(name) or name == META:
            return f"{quote(name)!r} is not the name of a file of a checkpoint"
        if not isinstance(facts, dict) or facts.keys() != {"bytes", "sha256"} or not _is_count(facts["bytes"], least=0):
            return f"size of {quote(name)} is not recorded"
        if not isinstance(facts["sha256"], str) or not _SHA256.fullmatch(facts["sha256"]):
            return f"checksum of {quote(name)} is not a SHA-256"
    return ""


def _is_count(value: Any, *, least: int) -> bool:
    return type(value) is int and value >= least  # a bool is an int, and no count
