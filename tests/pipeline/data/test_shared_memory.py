"""Training data through a /dev/shm of a few megabytes: the need is computed beforehand, and too little is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from albef.errors import DataError
from pipeline.data import shared_memory
from tests.support.shards import write_corpus

ROOT = Path(__file__).resolve().parents[3]
LOADS = """
import gc, json, os, subprocess, sys, time
from pathlib import Path
from base.errors import UserError
from pipeline.data import shared_memory
from tests.pipeline.data.test_loader import make_loader

def errors(act):
    try:
        act()
    except UserError as error:
        return [type(error).__name__, error.message, error.hint]

whole = shared_memory.free_bytes()
loader = make_loader(Path(sys.argv[1]), num_workers=2, prefetch=3)
taken = []
for step in loader.steps(0):
    time.sleep(0.2)
    taken.append(whole - shared_memory.free_bytes())
    if step.step == 8:
        break
loader.close()
del step
gc.collect()  # the queues' semaphores, a page each, go with their objects
left = whole - shared_memory.free_bytes()
subprocess.run(["mount", "-o", "remount,size=64k", "/dev/shm"], check=True)
large = make_loader(Path(sys.argv[1]), num_workers=1, micro_batch_size=8, image_size=64)
too_small = errors(lambda: next(large.steps(0)))
Path("/dev/shm/other").write_bytes(bytes(shared_memory.free_bytes()))
full = errors(lambda: next(make_loader(Path(sys.argv[1]), num_workers=1).steps(0)))
print(json.dumps({"taken": taken, "left": left, "too_small": too_small, "full": full}))
"""


def test_what_the_loader_takes_of_shared_memory(tmp_path: Path) -> None:
    """Four lanes of two images of 32 pixels (6,144 bytes each) through two workers that prepare three: at most
    6 + 2 x 4 of them. In 64 KiB eight images of 64 pixels do not fit, and with none free workers cannot start: both
    fail with a way out."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        assert os.environ.get("CI") != "true", "this machine lets nobody mount"
        pytest.skip("no right to mount here")
    corpus = write_corpus(tmp_path / "corpus", [20, 12])
    small = 'mount -t tmpfs -o size=8m tmpfs /dev/shm && exec "$@"'
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", small, "sh", sys.executable, "-W", "ignore"]
    done = subprocess.run(
        [*words, "-c", LOADS, str(corpus)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    batch = 2 * 3 * 32 * 32
    need = shared_memory.needed_bytes(num_workers=2, prefetch=3, lanes=4, micro_batch_size=2, image_size=32)
    assert need == (6 + 8) * batch
    semaphores = 16 * 4096  # a page each
    assert 10 * batch <= max(found["taken"]) <= need + semaphores, found["taken"]
    assert found["left"] == 0
    reasons = {"too_small": ("No space left on device", "not enough room"), "full": ("0.0 MiB are free now",)}
    for kind, any_of in reasons.items():
        name, message, hint = found[kind]
        assert name == "DataError" and message.startswith("a data worker found no shared memory in /dev/shm"), found
        assert any(words in message for words in any_of), found[kind]
        assert "--shm-size" in hint and "data.num_workers" in hint, found[kind]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "RuntimeError: unable to mmap 98304 bytes from file </torch_1_2_0>: Cannot allocate memory (12)",
            "allocate memory",
        ),
        ("unable to open shared memory object </torch_1_2_0> in read-write mode: Permission denied (13)", "denied"),
        ("unable to allocate shared memory(shm) for file </torch_1_2_0>: Success (0)", "shm: not enough room"),
        (
            "unable to open shared memory object </torch_1_2_0> in read-write mode: Too many open files (24)",
            "too many files",
        ),
        ("received 0 items of ancdata", "too many files"),
    ],
)
def test_what_torch_says_of_shared_memory_is_recognised(text: str, message: str) -> None:
    """Its own words, of aten/src/ATen/MapAllocator.cpp, and multiprocessing's."""
    error = shared_memory.error_of(text)
    assert isinstance(error, DataError) and message in error.message
    assert (
        shared_memory.error_of("RuntimeError: unable to open file <weights.pth> in read-only mode: No such file")
        is None
    )
