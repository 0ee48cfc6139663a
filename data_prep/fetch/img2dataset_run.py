"""The process that runs img2dataset; `supervisor` starts it: `python -m data_prep.fetch.img2dataset_run LAUNCH.json`.

img2dataset's workers are spawned, and a spawned process imports this module before anything else, so what it does at
import holds in every one of them.
"""

from __future__ import annotations

import json
import os
import sys
import types
from typing import Any

from data_prep.workers.orphans import end_with_parent

PARENT = "DATA_PREP_PARENT_PID"


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


if __name__ in ("__main__", "__mp_main__"):  # the process itself, and a worker it spawned
    end_with_parent(int(os.environ[PARENT]), whole_group=__name__ == "__main__")
    os.environ[PARENT] = str(os.getpid())
    keep_lean()


def downloader_of(launch: dict[str, Any]) -> Any:
    """How a worker takes its downloader out of a message. Spark starts its workers by itself: they become lean here."""
    keep_lean()
    from data_prep.fetch.img2dataset_parts import Launch, make_downloader

    return make_downloader(Launch.from_json(launch))


def main() -> None:
    from data_prep.fetch.img2dataset_parts import Launch, run

    with open(sys.argv[1], encoding="utf-8") as file:
        run(Launch.from_json(json.load(file)))


if __name__ == "__main__":
    main()
