"""What every process of img2dataset does before it imports img2dataset. Imports the standard library only."""

from __future__ import annotations

import importlib
import os
import sys
import types
from typing import Any


def keep_lean() -> None:
    """Keep packages out of the process that img2dataset imports and this use of it never calls.

    albumentations asks the package index for its newest version when it is imported; wandb and torch are only heavy.
    docs/shards.md has the time and memory this saves.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    os.environ["WANDB_MODE"] = "disabled"
    sys.modules["torch"] = None  # type: ignore[assignment]  # webdataset asks for it and does without
    sys.modules["ray"] = None  # type: ignore[assignment]  # likewise img2dataset
    for unused in ("albumentations", "wandb"):
        sys.modules.setdefault(unused, types.ModuleType(unused))


def rebuilt(module: str, function: str, *args: Any) -> Any:
    """How a worker unpickles an object: `module.function(*args)`, once the process is lean.

    multiprocessing's workers are lean already. Spark starts its workers by itself, and unpickles before it runs any of
    our code: so the message holds the name of the module that imports img2dataset, and reading it imports nothing.
    """
    keep_lean()
    return getattr(importlib.import_module(module), function)(*args)
