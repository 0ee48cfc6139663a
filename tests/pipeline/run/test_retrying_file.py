"""Records that cannot be written wait, whole and in order: real errors of the kernel, on real files."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.run.retrying_file import RetryingFile


@contextlib.contextmanager
def full(path: Path) -> Iterator[None]:
    """`path` is on a full disk: what is written to /dev/full ends with ENOSPC."""
    aside = path.with_name("aside")
    if path.exists():
        path.rename(aside)
    path.symlink_to("/dev/full")
    yield
    path.unlink()
    if aside.exists():
        aside.rename(path)


@contextlib.contextmanager
def no_larger(size: int) -> Iterator[None]:
    """Files may grow to `size` bytes: a write beyond that is cut in mid-record, as on a disk that fills up."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


@pytest.fixture
def reports(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="pipeline")
    return caplog


def test_what_could_not_be_written_is_written_in_order_and_reported_once(
    tmp_path: Path, reports: pytest.LogCaptureFixture
) -> None:
    file = RetryingFile(tmp_path / "lines")
    file.append(b"1\n")
    with full(file.path):
        for number in (b"2\n", b"3\n", b"4\n"):
            file.append(number)
        assert [record.getMessage() for record in reports.records] == [
            f"{file.path} cannot be written: No space left on device. Training continues; its records are kept in "
            "memory until there is room"
        ]
    assert file.path.read_bytes() == b"1\n"
    file.append(b"5\n")
    assert file.path.read_bytes() == b"1\n2\n3\n4\n5\n"
    file.append(b"6\n")
    assert file.path.read_bytes() == b"1\n2\n3\n4\n5\n6\n"
    assert [record.getMessage() for record in reports.records[1:]] == [
        f"{file.path} can be written again: 3 records were written late, 0 are lost"
    ]


def test_half_a_record_never_stays(tmp_path: Path) -> None:
    """The disk takes 3 of a record's 10 bytes, and 25 of 30 that waited: only whole records are ever seen."""
    file = RetryingFile(tmp_path / "lines")
    records = [bytes([letter]) * 9 + b"\n" for letter in b"abcdef"]
    file.append(records[0])
    with no_larger(13):
        file.append(records[1])
        assert file.path.read_bytes() == records[0]
        file.append(records[2])
        file.append(records[3])
    with no_larger(35):
        file.append(records[4])
        assert file.path.read_bytes() == records[0]
    file.append(records[5])
    assert file.path.read_bytes() == b"".join(records)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_half_that_could_not_be_cut_off_at_once_is_cut_off_before_the_next_record(tmp_path: Path) -> None:
    """A signal in mid-write leaves one (as does a disk that lets nothing be cut): SIGXFSZ comes after 3 of 10 bytes."""
    file = RetryingFile(tmp_path / "lines")
    file.append(b"whole\n")
    usual = signal.signal(signal.SIGXFSZ, interrupt)
    try:
        with no_larger(9), pytest.raises(KeyboardInterrupt):
            file.append(b"123456789\n")
    finally:
        signal.signal(signal.SIGXFSZ, usual)
    assert file.path.read_bytes() == b"whole\n123"
    file.append(b"next\n")
    assert file.path.read_bytes() == b"whole\n123456789\nnext\n"


def test_only_the_file_that_was_cut_short_is_cut(tmp_path: Path) -> None:
    """While a mount is lost, a file of that name on the disk below has no room either: the real one keeps its lines."""
    file = RetryingFile(tmp_path / "lines")
    file.append(b"1\n")
    file.path.rename(tmp_path / "real")
    usual = signal.signal(signal.SIGXFSZ, interrupt)
    try:
        with no_larger(1), pytest.raises(KeyboardInterrupt):
            file.append(b"2\n")
    finally:
        signal.signal(signal.SIGXFSZ, usual)
    (tmp_path / "real").replace(file.path)
    file.append(b"3\n")
    assert file.path.read_bytes() == b"1\n2\n3\n"


def test_the_oldest_records_go_when_too_many_wait(tmp_path: Path, reports: pytest.LogCaptureFixture) -> None:
    file = RetryingFile(tmp_path / "lines", max_waiting=4)
    with full(file.path):
        for number in range(5):
            file.append(b"%d\n" % number)
    file.append(b"5\n")
    assert file.path.read_bytes() == b"3\n4\n5\n"
    assert reports.records[-1].getMessage().endswith("can be written again: 2 records were written late, 3 are lost")
    assert reports.records[-1].levelno == logging.WARNING


def test_a_folder_that_is_gone_for_a_while_costs_nothing(tmp_path: Path) -> None:
    """A mount that is lost: the folder is not made again in the mount's place, where it would fill another disk."""
    folder = tmp_path / "mount"
    folder.mkdir()
    file = RetryingFile(folder / "lines")
    folder.rename(tmp_path / "elsewhere")
    file.append(b"1\n")
    assert not folder.exists()
    (tmp_path / "elsewhere").rename(folder)
    file.append(b"2\n")
    assert file.path.read_bytes() == b"1\n2\n"


def test_closing_writes_what_waits_or_reports_what_is_lost(tmp_path: Path, reports: pytest.LogCaptureFixture) -> None:
    kept, lost = RetryingFile(tmp_path / "kept"), RetryingFile(tmp_path / "lost")
    with full(kept.path):
        kept.append(b"1\n")
    kept.close()
    assert kept.path.read_bytes() == b"1\n"
    with full(lost.path):
        lost.append(b"1\n")
        lost.append(b"2\n")
        lost.close()
        lost.close()
    assert [record.getMessage() for record in reports.records if "lost" in record.getMessage()][-1:] == [
        f"{lost.path} cannot be written: No space left on device. 2 of its records are lost"
    ]


def test_a_start_that_cannot_write_learns_of_it_at_once(tmp_path: Path) -> None:
    """`write` raises: a folder of that name, a FIFO that nobody reads, a full disk."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "full").symlink_to("/dev/full")
    os.mkfifo(tmp_path / "fifo")
    for name in ("folder", "full", "fifo"):
        with pytest.raises(OSError):
            RetryingFile(tmp_path / name).write(b"1\n")
