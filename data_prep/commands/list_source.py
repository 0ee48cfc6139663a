"""`data_prep list`: a source's published files -> one normalised list."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from base import flag_types
from base.errors import UsageError
from base.progress import Progress
from data_prep.accounts.min_yield import REASONS_SHOWN, check_yield
from data_prep.commands.flags.yield_flag import add_min_yield
from data_prep.errors import InputError
from data_prep.lists.published_file import check_is_file, lines
from data_prep.lists.row_list import SHOWN, whole_number
from data_prep.sources.catalogue import SOURCES
from data_prep.sources.coco import SPLITS, karpathy_images
from data_prep.sources.list_file import ListSummary, write_list
from data_prep.sources.source import ListedRow, ListOptions, Source
from samples.quote import quote

FLAG_OF = {"split": "--split", "min_region_area": "--min-region-area", "excluded_coco_ids": "--exclude-coco"}
ROWS_BETWEEN_UPDATES = 1000


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("source", choices=list(SOURCES), metavar="SOURCE", help=", ".join(SOURCES))
    parser.add_argument(
        "files", nargs="+", metavar="FILE", help="its files as they were published (`sources` names them)"
    )
    parser.add_argument("--out", required=True, metavar="LIST.parquet", help="where the list goes")
    parser.add_argument("--split", choices=list(SPLITS), help="coco: Karpathy's split (train, with restval)")
    parser.add_argument(
        "--min-region-area",
        type=flag_types.count,
        metavar="PX",
        help="visual_genome: leave out phrases of regions with fewer square pixels (0)",
    )
    parser.add_argument(
        "--exclude-coco",
        action="append",
        metavar="FILE",
        help="coco, visual_genome: leave out these COCO images: dataset_coco.json for its val and test, "
        "or a .txt of COCO ids; repeat it for several",
    )

    add_min_yield(parser, 0.5, "the rows is usable")


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0. Raises: YieldError, exit code 1, when no row is usable, or fewer than --min-yield."""
    out, files = Path(flags.out), [Path(name) for name in flags.files]
    source = SOURCES[flags.source]
    if out.suffix != ".parquet":
        raise UsageError(f"--out {out} is no .parquet", "give it that ending: `download` and `pack` know a list by it")
    for path in files:
        check_is_file(path, "`data_prep sources` names the files of each source")
    chosen = {
        "split": flags.split,
        "min_region_area": flags.min_region_area,
        "excluded_coco_ids": flags.exclude_coco,
    }
    for option, value in chosen.items():
        if value is not None and option not in source.options:
            raise UsageError(f"{FLAG_OF[option]} means nothing for {source.name}", "leave it out")
    options = ListOptions(
        split=flags.split or "train",
        min_region_area=flags.min_region_area or 0,
        excluded_coco_ids=frozenset(_coco_ids(map(Path, flags.exclude_coco or []))),
    )
    left_out: Counter[str] = Counter()
    made = {"source": source.name, "files": [path.name for path in files]}
    made |= {option: value for option, value in chosen.items() if value is not None}
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = _shown(source.read(files, options, left_out), source)
    summary = write_list(out, source.name, rows, left_out, made)
    _print(summary)
    if not summary.rows:
        raise InputError(f"{', '.join(flags.files)}: no rows", "`data_prep sources` names what should be in them")
    if summary.usable:
        print(f"wrote {out}")
    _check_yield(summary, flags.min_yield)
    return 0


def _coco_ids(paths: Iterable[Path]) -> Iterator[int]:
    for path in paths:
        check_is_file(path, "give existing files with --exclude-coco")
        if ".json" in path.suffixes:
            kept_out = SPLITS["val"] + SPLITS["test"]
            for image in karpathy_images(path):
                if image.get("split") in kept_out:
                    yield _coco_id(path, image.get("cocoid"), "an image of another split")
            continue
        for number, line in enumerate(lines(path), start=1):
            for word in line.decode("utf-8", "replace").split():
                yield _coco_id(path, word, f"line {number}")


def _coco_id(path: Path, value: object, where: str) -> int:
    """Raises: InputError for anything but a number: an image that is not left out would be trained on."""
    number = whole_number(value)
    if number is None:
        raise InputError(f"{path}, {where}: {quote(value, SHOWN)!r} is not a COCO id", "give one number a line")
    return number


def _shown(rows: Iterable[ListedRow], source: Source) -> Iterator[ListedRow]:
    progress, number = Progress("rows", source.rows), 0
    for number, row in enumerate(rows, start=1):
        if number % ROWS_BETWEEN_UPDATES == 0:
            progress.update(number)
        yield row
    progress.print_line(f"read {number} rows")


def _check_yield(summary: ListSummary, least: float) -> None:
    reasons = {
        reason: f"{count} {reason} (row {summary.examples[reason]})"
        for reason, count in summary.rejected.most_common(REASONS_SHOWN)
    }
    hint = "are these the files that `data_prep sources` names, whole?"
    check_yield("list took", summary.usable, summary.rows, least, reasons, hint)


def _print(summary: ListSummary) -> None:
    print(f"listed   {summary.rows:>10}  images, {summary.usable} usable, with {summary.captions} captions")
    for reason, count in summary.rejected.most_common():
        print(f"rejected {count:>10}  {reason}")
    for rule, count in sorted(summary.left_out.items()):
        if count:
            print(f"left out {count:>10}  {rule}")
