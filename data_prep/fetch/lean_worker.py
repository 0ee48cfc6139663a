"""What every process of img2dataset does before it imports img2dataset. Light itself: it imports nothing of ours."""

from __future__ import annotations

import importlib
import os
import sys
import types
from typing import Any


def keep_lean() -> None:
    """Keep packages that img2dataset imports and this use of it never calls out of the process.

    albumentations asks the package index for its newest version when it is imported; wandb and torch are only heavy.
    What this saves in time and memory is measured in docs/shards.md.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    os.environ["WANDB_MODE"] = "disabled"
    sys.modules["torch"] = None  # type: ignore[assignment]  # webdataset asks for it and does without
    sys.modules["ray"] = None  # type: ignore[assignment]  # likewise img2dataset
    for unused in ("albumentations", "wandb"):
        sys.modules.setdefault(unused, types.ModuleType(unused))


def rebuilt(module: str, function: str, *args: Any) -> Any:
    """How a worker takes an object out of a message: `module.function(*args)`, once the process is lean.

    multiprocessing's workers are lean already. Spark starts its workers by itself, and unpickles before it runs
    anything of ours: so the message names the module, which imports img2dataset, instead of importing it.
    """
    keep_lean()
    return getattr(importlib.import_module(module), function)(*args)
