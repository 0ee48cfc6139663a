"""Read a JSON object from an untrusted folder: it must be small, shallow and UTF-8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from albef.errors import CheckpointError
from albef.regular_file import read_bytes
from samples.json_text import parse_json
from samples.quote import quote


def read_object(path: Path, *, hint: str) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        hint: how to fix it if the file is missing or holds something else.

    Raises: CheckpointError when it cannot be read, or is too large, nested too deeply, or no JSON object.
    """
    data = read_bytes(path, hint=hint)
    try:
        values = parse_json(data)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read: {quote(error)}", hint) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds no JSON object", hint)
    return values
