"""img2dataset over Spark: its requirements, and the session for its distributor."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from base.errors import UsageError

DISTRIBUTORS = ("multiprocessing", "pyspark")


def check_distributor(name: str) -> None:
    """Check for Spark before anything starts: img2dataset would fail in a child process, or do nothing and exit with 0.

    Raises: UsageError when pyspark or Java is missing.
    """
    if name != "pyspark":
        return
    if importlib.util.find_spec("pyspark") is None:
        raise UsageError(
            "--distributor pyspark needs pyspark, which is not installed", "pip install '.[data,spark]', and Java 17"
        )
    java = Path(os.environ.get("JAVA_HOME", "/"), "bin", "java")
    if shutil.which("java") is None and not ("JAVA_HOME" in os.environ and java.exists()):
        raise UsageError(
            "--distributor pyspark needs Java, which was not found", "install Java 17, or set JAVA_HOME to where it is"
        )


@contextlib.contextmanager
def spark_session(processes: int, master: str | None, folder: Path) -> Iterator[None]:
    """A session that is active within the block; img2dataset's own would ask for 16 GB of memory.

    Args:
        processes: tasks at a time, where Spark runs on this machine (no master).
        master: URL of a cluster. Its other settings come from Spark's own files.
        folder: for Spark's temporary files on this machine, so that they go with the launch, however it ends.
    """
    from pyspark.sql import SparkSession

    # Otherwise workers run the `python3` that is first on PATH.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    builder = SparkSession.builder.appName("data_prep").master(master or f"local[{processes}]")
    # A second attempt beside the first would write into the same files.
    settings = {"spark.speculation": "false", "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    if master is None:
        here = {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
        settings |= here | {"spark.local.dir": str(folder / "spark")}
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    try:
        yield
    finally:
        session.stop()
