"""What holds for every test: few threads, no network, no variables of a cluster the tests happen to run on."""

from __future__ import annotations

import os

# Before torch or a hub client is imported, by this process or by those that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests share the processors with the ranks they start
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # img2dataset's albumentations asks the package index at import
for name in list(os.environ):
    if name.startswith(("SLURM_", "SBATCH_")) or name in {"RANK", "LOCAL_RANK", "WORLD_SIZE", "RUN_DIR", "NPROC"}:
        del os.environ[name]
