"""How fast `data_prep verify` reads, and what a manifest of many shards costs: `python -m benchmarks.verify`.

Writes one corpus of real JPEGs and verifies it with 1, 2, ... processes, all images decoded and none; then many
small shards, for time and memory of verifying and of the manifest. Each in its own process. Prints one JSON
object; the files are in the page cache, so this is the speed of hashing and decoding, not that of a disk. Processor
time of an image is without that of starting up, which is measured on a corpus of one image (two processes start).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.download import Usage, photo
from data_prep.lists.row_list import ListedImage
from data_prep.output.job import Folder, ImageSettings, Job, write_job
from data_prep.shards.writer import FetchResult, write_shard
from tests.support.data_prep_runs import ROOT

DISTINCT = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8000, help="of the corpus that is timed (8000)")
    parser.add_argument("--shard-size", type=int, default=500)
    parser.add_argument("--side", type=int, default=300, help="shortest side of the stored images (300)")
    parser.add_argument("--processes", default="1,2", help="to verify with (1,2)")
    parser.add_argument("--many", type=int, default=1000, help="small shards (1000)")
    parser.add_argument("--many-size", type=int, default=100, help="images in each of them (100)")
    flags = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        single = Path(temporary, "single")
        write(single, 1, 1, flags.side)
        start_up_s = verify(single, 1, 1)["cpu_s"]
        corpus = Path(temporary, "corpus")
        num_bytes = write(corpus, flags.images, flags.shard_size, flags.side)
        for processes in map(int, flags.processes.split(",")):
            for share in (1, 0):
                run = verify(corpus, processes, share)
                rates = {"mb_per_s": num_bytes / run["seconds"] / 1e6, "images_per_s": flags.images / run["seconds"]}
                rates["cpu_ms_per_image"] = 1000 * (run["cpu_s"] - (1 + processes) * start_up_s / 2) / flags.images
                results.append({"decoded": share, "processes": processes, **run, **rates})
        many = Path(temporary, "many")
        write(many, flags.many * flags.many_size, flags.many_size, 32)
        started = verify(many, int(flags.processes.split(",")[-1]), 0)
        size = (many / "manifest.parquet").stat().st_size
    rounded = [{name: round(value, 2) for name, value in result.items()} for result in results]
    print(
        json.dumps(
            {
                **vars(flags),
                "mean_kib": round(num_bytes / flags.images / 1024, 1),
                "start_up_cpu_s": round(start_up_s, 2),
                "verify": rounded,
                "many_shards": {name: round(value, 2) for name, value in started.items()} | {"manifest_bytes": size},
                "load_average": [round(value, 1) for value in os.getloadavg()],
                "cpus": os.cpu_count(),
                "machine": platform.platform(),
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            indent=1,
        )
    )


def write(root: Path, num_images: int, shard_size: int, side: int) -> int:
    """A packed corpus of JPEGs that keep their size; returns the bytes of its tars."""
    folder = Folder(root)
    for needed in (folder.shards, folder.failures, folder.work):
        needed.mkdir(parents=True)
    images = ImageSettings(image_size=side)
    job = Job(kind="pack", source="made", inputs_sha256="0", shard_size=shard_size, images=images, num_rows=num_images)
    bodies = [photo(number, side) for number in range(DISTINCT)]
    for index in range(job.num_shards):
        rows = range(index * shard_size, min((index + 1) * shard_size, num_images))
        listed = {row: ListedImage(f"http://host/{row}.jpg", [f"picture {row}"]) for row in rows}
        write_shard(folder, job, index, listed, (FetchResult(row, bodies[row % DISTINCT], None) for row in rows), {})
    write_job(folder, job)
    return sum(path.stat().st_size for path in folder.shards.glob("*.tar"))


def verify(root: Path, processes: int, share: float) -> dict[str, float]:
    """One run of the command. Raises: SystemExit with what it printed when it fails."""
    flags = ["--processes", str(processes), "--sample", str(share)]
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "data_prep", "verify", str(root), *flags],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        usage = Usage(process.pid)
        code = process.wait()
        usage.stop()
        if code:
            log.seek(0)
            raise SystemExit(log.read())
    return {"seconds": time.monotonic() - began, "cpu_s": usage.cpu_s, "peak_tree_mib": usage.peak_mib}


if __name__ == "__main__":
    main()
