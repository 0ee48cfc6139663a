"""Where the workers' sockets go for every kind of TMPDIR."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from multiprocessing import process
from pathlib import Path

import pytest

from albef.errors import ConfigError
from pipeline.data import socket_folder

ROOT = Path(__file__).resolve().parents[3]
SETTLED = """
import socket
from multiprocessing import connection, util
from pipeline.data import socket_folder
socket_folder.settle()
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(connection.arbitrary_address("AF_UNIX"))
print(util.get_temp_dir())
"""


@pytest.mark.parametrize(
    ("name", "is_used"),
    [("t", True), ("with a blank é", True), ("x" * 100, False), ("not there/at all", False), ("relative", True)],
)
def test_sockets_fit_for_any_tmpdir(name: str, is_used: bool) -> None:
    """TMPDIR is used where the path fits, else a private folder in another one; nothing is left of it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as top:
        folder = Path(top, name)
        if "/" not in name:
            folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", SETTLED],
            env={"PYTHONPATH": str(ROOT), "TMPDIR": name if name == "relative" else str(folder)},
            cwd=top,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        used = Path(done.stdout.strip())
        assert (used.parent == folder) == is_used, used
        assert not used.exists()


def test_without_any_folder_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Too long, not there, and a file: one error that has all three."""
    long, file = tmp_path / ("x" * 100), tmp_path / "file"
    long.mkdir()
    file.touch()
    monkeypatch.delitem(process.current_process()._config, "tempdir", raising=False)  # type: ignore[attr-defined]
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.setattr(socket_folder, "ELSEWHERE", (str(tmp_path / "nowhere"), str(file)))
    with pytest.raises(ConfigError, match=r"AF_UNIX path too long.*No such file.*Not a directory") as error:
        socket_folder.settle()
    assert "TMPDIR" in error.value.hint
    assert list(long.iterdir()) == []
