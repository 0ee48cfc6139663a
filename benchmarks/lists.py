"""Processor time and memory of what precedes images: listing a source, merging annotations, reading ready-made tars.

    python -m benchmarks.lists list --rows 1000000       # `data_prep list cc12m`
    python -m benchmarks.lists merge --rows 5000000      # as `pack` merges; an eighth names images again
    python -m benchmarks.lists tars --rows 100000        # the first pass of `data_prep import`: headers and texts

Prints one JSON object; memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from data_prep.commands import list_source
from data_prep.lists.annotations import merge_captions
from data_prep.lists.row_list import ListedImage
from data_prep.stages.import_tars import list_tars

IMAGE_BYTES = 40 * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["list", "merge", "tars"])
    parser.add_argument("--rows", type=int, default=1_000_000)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prepared = {"list": prepare_list, "merge": lambda *_: None, "tars": prepare_tar}[flags.what](
            Path(name), flags.rows
        )
        at_start, began = peak_mib(), time.process_time()
        if flags.what == "list":
            take_list(Path(name))
        elif flags.what == "merge":
            prepared = sum(1 for _ in merge_captions(entries(flags.rows), Path(name)))
        else:
            prepared = sum(1 for _ in list_tars([Path(name, "x.tar")], Path(name, "m"), 10_000, processes=1))
        seconds = time.process_time() - began
    result = {"what": flags.what, "rows": flags.rows, "out": prepared, "processor_s": round(seconds, 1)}
    result |= {"rows_per_processor_s": round(flags.rows / seconds), "mib_at_start": at_start, "mib_peak": peak_mib()}
    print(json.dumps(result))


def peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def prepare_list(folder: Path, rows: int) -> None:
    with open(folder / "cc12m.tsv", "w", encoding="utf-8") as file:
        for row in range(rows):
            url = f"https://images{row % 5000}.example/wp-content/uploads/2018/{row:08d}-800x600.jpg?w=1"
            file.write(f"{url}\t<PERSON> at the opening of gallery {row} on the first evening of the year\n")


def take_list(folder: Path) -> None:
    parser = argparse.ArgumentParser()
    list_source.add_flags(parser)
    list_source.run(parser.parse_args(["cc12m", str(folder / "cc12m.tsv"), "--out", str(folder / "l.parquet")]))


def entries(rows: int) -> Iterator[ListedImage]:
    for row in range(rows):
        image = row % (rows // 40) if row < rows // 8 else row
        caption = f"a caption of some ten words that names what is in picture {row}"
        yield ListedImage(f"/export/home/data/cc/{image:09d}_{image * 7919:012d}.jpg", [caption])


def prepare_tar(folder: Path, rows: int) -> None:
    """As img2dataset writes: an image, a text and a JSON a sample, with PAX headers for fractions of seconds."""
    with tarfile.open(folder / "x.tar", "w") as tar:
        for row in range(rows):
            text = f"a caption of some ten words that names what is in picture {row}".encode()
            fields = {
                "caption": text.decode(),
                "url": f"https://a.example/{row}.jpg",
                "key": f"{row:09d}",
                "width": 384,
            }
            for kind, data in (("jpg", bytes(IMAGE_BYTES)), ("txt", text), ("json", json.dumps(fields).encode())):
                member = tarfile.TarInfo(f"{row:09d}.{kind}")
                member.size, member.mtime = len(data), 1700000000.25  # type: ignore[assignment]
                tar.addfile(member, io.BytesIO(data))


if __name__ == "__main__":
    main()
