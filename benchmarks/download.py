"""Images per second and processor time per image of `data_prep download`, from a server on the same machine.

    python -m benchmarks.download [--images 4000] [--side 300] [--image-size 96] [--processes 2] [--shard-size 500]

Prints one JSON object. The server shares the processors, so rates are lower bounds; processor time is that of the
command and everything it started, without the server, sampled from /proc.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.data_prep_runs import family, start
from tests.support.image_server import ImageServer, Reply

DISTINCT = 50
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--side", type=int, default=300, help="of the served images, in pixels")
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--shard-size", type=int, default=500)
    flags = parser.parse_args()
    bodies = [photo(number, flags.side) for number in range(DISTINCT)]
    with ImageServer() as server, tempfile.TemporaryDirectory() as folder:
        server.serve_anything(lambda path: Reply(bodies[int(path[1:-4]) % DISTINCT]))
        urls = Path(folder, "list.tsv")
        lines = [f"{server.url(f'/{number}.jpg')}\tpicture {number}" for number in range(flags.images)]
        urls.write_text("url\tcaption\n" + "\n".join(lines) + "\n")
        # One host serves all here: politeness to it is not what is measured.
        sizes = ("--image-size", flags.image_size, "--shard-size", flags.shard_size, "--processes", flags.processes)
        sizes = (*sizes, "--per-host", 100_000)
        began = time.monotonic()
        process = start("download", "--allow-private-addresses", "--urls", urls, "--out", Path(folder, "out"), *sizes)
        usage = Usage(process.pid)
        out, err = process.communicate()
        seconds = time.monotonic() - began
        usage.stop()
        if process.returncode:
            raise SystemExit(err + out)
        report = json.loads(Path(folder, "out", "report.json").read_text())
    print(
        json.dumps(
            {
                **vars(flags),
                "body_kib": round(sum(map(len, bodies)) / DISTINCT / 1024, 1),
                "kept": report["kept"],
                "seconds": round(seconds, 1),
                "images_per_s": round(flags.images / seconds, 1),
                "cpu_ms_per_image": round(1000 * usage.cpu_s / flags.images, 2),
                "images_per_cpu_s": round(flags.images / usage.cpu_s, 1),
                "peak_tree_mib": round(usage.peak_mib),
                "load_average": [round(value, 1) for value in os.getloadavg()],
                "cpus": os.cpu_count(),
                "machine": platform.platform(),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            indent=1,
        )
    )


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
