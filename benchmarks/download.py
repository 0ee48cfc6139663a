"""`data_prep download` beside bare img2dataset with the same resize: images per second, processor time per image.

    python -m benchmarks.download [--images 4000] [--side 300] [--image-size 96] [--processes 2] [--shard-size 500]

Both download the same list from one server on this machine in one run and take turns. Prints one JSON object. The
server shares the processors, so rates are lower bounds; processor time is that of the command and everything it
started, without the server, sampled from /proc. img2dataset's side does less: no check of what it stored, no upright
images, no manifest.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.data_prep_runs import ROOT
from tests.support.image_server import ImageServer, Reply
from tests.support.job_processes import family

DISTINCT = 50
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--side", type=int, default=300, help="of the served images, in pixels")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=32)
    parser.add_argument("--shard-size", type=int, default=500)
    parser.add_argument("--repeat", type=int, default=1, help="pairs of runs, taking turns; the median is printed")
    flags = parser.parse_args()
    bodies = [photo(number, flags.side) for number in range(DISTINCT)]
    ours: list[Run] = []
    bare: list[Run] = []
    with ImageServer() as server, tempfile.TemporaryDirectory() as folder:
        server.serve_anything(lambda path: Reply(bodies[int(path[1:-4]) % DISTINCT]))
        urls = Path(folder, "list.tsv")
        lines = [f"{server.url(f'/{number}.jpg')}\tpicture {number}" for number in range(flags.images)]
        urls.write_text("url\tcaption\n" + "\n".join(lines) + "\n")
        few = Path(folder, "few.tsv")
        few.write_text("url\tcaption\n" + "\n".join(lines[: 2 * flags.processes]) + "\n")
        start_up = [measure(command(few, Path(folder, f"few-{number}"), flags)) for number, command in enumerate(BOTH)]
        for number in range(flags.repeat):
            turn = list(zip((ours, bare), BOTH, strict=True))
            for runs, command in turn if number % 2 == 0 else turn[::-1]:
                out = Path(folder, f"{command.__name__}-{number}")
                runs.append(measure(command(urls, out, flags)))
                if stored(out) != flags.images:
                    raise SystemExit(f"{out.name}: {stored(out)} images of {flags.images}")
    print(
        json.dumps(
            {
                **vars(flags),
                "body_kib": round(sum(map(len, bodies)) / DISTINCT / 1024, 1),
                "data_prep": summary(ours, start_up[0], flags.images),
                "img2dataset": summary(bare, start_up[1], flags.images),
                "images_per_s_ratio": round(median(bare, "seconds") / median(ours, "seconds"), 3),
                "cpu_per_image_ratio": round(median(ours, "cpu_s") / median(bare, "cpu_s"), 3),
                "cpu_per_further_image_ratio": round(further(ours, start_up[0]) / further(bare, start_up[1]), 3),
                "load_average": [round(value, 1) for value in os.getloadavg()],
                "cpus": os.cpu_count(),
                "machine": platform.platform(),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            indent=1,
        )
    )


@dataclass(frozen=True)
class Run:
    seconds: float
    cpu_s: float
    """Of the command and all it started."""
    peak_mib: float


def measure(command: list[str]) -> Run:
    """Run a command to its end. Raises: SystemExit with what it printed when it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        usage = Usage(process.pid)
        code = process.wait()
        seconds = time.monotonic() - began
        usage.stop()
        if code:
            log.seek(0)
            raise SystemExit(log.read())
    return Run(seconds, usage.cpu_s, usage.peak_mib)


def data_prep_command(urls: Path, out: Path, flags: argparse.Namespace) -> list[str]:
    """With its manifest, and its check of every stored image's hash."""
    sizes = ["--image-size", flags.image_size, "--shard-size", flags.shard_size]
    # One host serves all here: politeness to it is not what is measured.
    speed = ["--processes", flags.processes, "--threads", flags.threads, "--per-host", 100_000]
    begin = [sys.executable, "-m", "data_prep", "download", "--allow-private-addresses"]
    return [*begin, *map(str, ["--urls", urls, "--out", out, *sizes, *speed])]


def bare_command(urls: Path, out: Path, flags: argparse.Namespace) -> list[str]:
    """The same list, sizes, quality, shards, processes and threads."""
    script = [sys.executable, str(ROOT / "benchmarks" / "bare_img2dataset.py")]
    return [*script, *map(str, [urls, out, flags.image_size, flags.shard_size, flags.processes, flags.threads])]


def stored(out: Path) -> int:
    """Images in the tars of either."""
    count = 0
    for path in out.rglob("*.tar"):
        with tarfile.open(path) as tar:
            count += sum(name.endswith(".jpg") for name in tar.getnames())
    return count


BOTH = (data_prep_command, bare_command)


def summary(runs: list[Run], start_up: Run, num_images: int) -> dict[str, float]:
    seconds, cpu_s = median(runs, "seconds"), median(runs, "cpu_s")
    return {
        "seconds": round(seconds, 1),
        "images_per_s": round(num_images / seconds, 1),
        "cpu_ms_per_image": round(1000 * cpu_s / num_images, 2),
        "images_per_cpu_s": round(num_images / cpu_s, 1),
        "start_up_cpu_s": round(start_up.cpu_s, 2),
        "cpu_ms_per_further_image": round(1000 * further(runs, start_up) / num_images, 2),
        "peak_tree_mib": round(max(run.peak_mib for run in runs)),
    }


def further(runs: list[Run], start_up: Run) -> float:
    """Processor time in seconds beyond that of a handful of images: what a long run comes to."""
    return median(runs, "cpu_s") - start_up.cpu_s


def median(runs: list[Run], name: str) -> float:
    return statistics.median(getattr(run, name) for run in runs)


def photo(number: int, side: int) -> bytes:
    """A JPEG as heavy as a photograph of its size: smooth shapes and some grain."""
    rng = np.random.default_rng(number)
    smooth = Image.fromarray(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize((side * 4 // 3, side))
    grainy = np.asarray(smooth, dtype=float) + rng.normal(0, 8, (side, side * 4 // 3, 1))
    buffer = io.BytesIO()
    Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


class Usage:
    """Processor time and memory of a process and its descendants, looked at ten times a second."""

    def __init__(self, pid: int) -> None:
        self._seen: dict[int, float] = {}
        self._pid = pid
        self.peak_mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def cpu_s(self) -> float:
        return sum(self._seen.values())

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            resident = 0.0
            for pid in family(self._pid):
                try:
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                self._seen[pid] = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
                resident += int(fields[21]) * PAGE_MIB
            self.peak_mib = max(self.peak_mib, resident)


if __name__ == "__main__":
    main()
