"""The process that runs img2dataset: `python -m data_prep.img2dataset_run LAUNCH.json`, started by `data_prep.fetch`.

img2dataset's workers are spawned, and a spawned process imports this module before anything else, so what it does at
import holds in every one of them.
"""

from __future__ import annotations

import json
import os
import sys
import types


def keep_lean() -> None:
    """Keep packages that img2dataset imports and this use of it never calls out of the process.

    Measured on one busy core: `import img2dataset` 9.5 s and 750 MB with them, without them see docs/shards.md.
    albumentations asks the package index for its newest version when it is imported; wandb and torch are only heavy.
    """
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    os.environ["WANDB_MODE"] = "disabled"
    sys.modules["torch"] = None  # type: ignore[assignment]  # webdataset asks for it and does without
    sys.modules["ray"] = None  # type: ignore[assignment]  # likewise img2dataset
    for unused in ("albumentations", "wandb"):
        sys.modules.setdefault(unused, types.ModuleType(unused))


keep_lean()


def main() -> None:
    from data_prep.img2dataset_parts import Launch, run

    with open(sys.argv[1], encoding="utf-8") as file:
        run(Launch.from_json(json.load(file)))


if __name__ == "__main__":
    main()
