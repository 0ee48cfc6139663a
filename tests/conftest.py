"""What holds for every test: few threads, no network, no variables of a cluster the tests happen to run on."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from multiprocessing import util

import pytest

LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
LOGGERS = ("albef", "pipeline", "DeepSpeed", "py.warnings")

# Before torch or a hub client is imported, by this process or by those that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests share the processors with the ranks they start
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # img2dataset's albumentations asks the package index at import
for name in list(os.environ):
    if name.startswith(("SLURM_", "SBATCH_")) or name in {*LAUNCHERS, "RUN_DIR", "NPROC"}:
        del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with a slow test start first: at the end each would run alone, beside idle processors."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


LONGEST_TMPDIR = 75
"""Characters of a folder in which multiprocessing can still make its socket, whose path may have 107 bytes."""


@pytest.fixture(autouse=True, scope="session")
def temporary_files_go_with_pytest_s_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests and the processes they start, or kill, leave in TMPDIR would stay there for good."""
    folder = tmp_path_factory.getbasetemp() / "tmpdir"
    with pytest.MonkeyPatch.context() as patch:
        if len(str(folder)) <= LONGEST_TMPDIR:
            folder.mkdir()
            util.get_temp_dir()  # removed as this process ends, when pytest's folder is gone: it stays outside
            patch.setenv("TMPDIR", str(folder))
            patch.setattr(tempfile, "tempdir", None)  # tempfile asks the environment once
        yield


@pytest.fixture(autouse=True)
def no_launchers_variables_are_left() -> Iterator[None]:
    """A command that a test calls in this process names itself rank 0 of 1 at a port; what later tests start is not."""
    yield
    for name in LAUNCHERS:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def no_log_of_another_test_is_written_to() -> Iterator[None]:
    """A run that a test starts in this process would log to its run folder, and only there, until the process ends."""
    yield
    for name in LOGGERS:
        for handler in list(logging.getLogger(name).handlers):
            if type(handler).__module__ == "pipeline.run.logs":
                logging.getLogger(name).removeHandler(handler)
                handler.close()
        logging.getLogger(name).propagate = True  # or caplog would see nothing in the tests that follow
    logging.captureWarnings(False)
