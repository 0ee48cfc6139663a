"""The process that runs img2dataset; `supervisor` starts it: `python -m data_prep.fetch.img2dataset_run LAUNCH.json`.

img2dataset's workers are spawned, and a spawned process imports this module before anything else. So what the module
does on import is done in every worker.
"""

from __future__ import annotations

import json
import os
import sys

from data_prep.fetch.lean_worker import keep_lean
from data_prep.workers.orphans import end_with_parent

PARENT = "DATA_PREP_PARENT_PID"


if __name__ in ("__main__", "__mp_main__"):  # the process itself, and a worker it spawned
    end_with_parent(int(os.environ[PARENT]), whole_group=__name__ == "__main__")
    os.environ[PARENT] = str(os.getpid())
    keep_lean()


def main() -> None:
    from data_prep.fetch.img2dataset_parts import FetchRequest, run

    with open(sys.argv[1], encoding="utf-8") as file:
        run(FetchRequest.from_json(json.load(file)))


if __name__ == "__main__":
    main()
