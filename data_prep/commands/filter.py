"""`data_prep filter`: which samples of one or several folders stay, as a corpus with its own manifest."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from base import flag_types
from base.errors import UsageError
from data_prep.accounts.datasheet import SourceAccount
from data_prep.accounts.min_yield import REASONS_SHOWN, check_yield
from data_prep.commands.flags.job_flags import add_processes, num_processes
from data_prep.commands.flags.yield_flag import add_min_yield
from data_prep.filters.corpus import Corpus, exclusive
from data_prep.filters.evaluation_sets import EvaluationSet
from data_prep.filters.filtering import filter_corpus
from data_prep.filters.settings import RULES, FilterSettings
from data_prep.output.storage import local_folder
from data_prep.workers.worker_pool import open_pool

DEFAULTS = FilterSettings()
COUNTS = {
    "min_side": "shorter side of an original, pixels",
    "min_words": "words of a caption",
    "max_words": "words of a caption",
    "min_characters": "characters of a caption",
    "max_characters": "characters of a caption",
    "max_character_run": "times a character may stand in a row",
    "max_word_run": "times a word may stand in a row",
    "max_images_per_caption": "images that may share a caption",
    "near_distance": "most bits, of 256, in which near duplicates differ",
    "decontaminate_distance": "most bits, of 256, in which a sample differs from an evaluation image",
}
SHARES = {
    "min_letters": "letters among the characters of a caption",
    "min_latin": "Latin ones among its letters",
    "min_distinct_words": "different words among ten or more",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument("folders", nargs="+", metavar="DIR", help="verified --out folders of download or pack")
    parser.add_argument("--out", required=True, metavar="CORPUS", help="folder of the corpus; the same to resume")
    parser.add_argument(
        "--decontaminate",
        action="append",
        default=[],
        metavar="NAME=PATH",
        help="drop samples that look nearly like these: a folder or zip of images, a manifest, a JSON list of {image}",
    )
    parser.add_argument(
        "--images",
        action="append",
        default=[],
        metavar="NAME=ROOT",
        help="folder or zip to which its paths are relative",
    )
    parser.add_argument("--off", nargs="+", default=[], choices=list(RULES), metavar="RULE", help=", ".join(RULES))
    for name, what in COUNTS.items():
        default = getattr(DEFAULTS, name)
        parser.add_argument(
            _flag(name), type=flag_types.count, default=default, metavar="N", help=f"{what} ({default})"
        )
    for name, what in SHARES.items():
        default = getattr(DEFAULTS, name)
        parser.add_argument(
            _flag(name), type=flag_types.share, default=default, metavar="F", help=f"{what} ({default:g})"
        )
    parser.add_argument(
        "--max-aspect",
        type=flag_types.seconds,
        default=DEFAULTS.max_aspect,
        metavar="A",
        help=f"longer side over shorter side ({DEFAULTS.max_aspect:g})",
    )
    parser.add_argument("--features", metavar="DIR", help="keep the features of the images here, for several corpora")
    parser.add_argument("--dry-run", action="store_true", help="count only: write features, no manifest")
    add_min_yield(parser, 0.1, "the samples stays")
    add_processes(parser)


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0. Raises: YieldError, exit code 1, when nothing stays, or less than --min-yield."""
    names = [*COUNTS, *SHARES, "max_aspect"]
    settings = FilterSettings(**{name: getattr(flags, name) for name in names}, off=tuple(flags.off))
    if settings.max_aspect < 1:
        raise UsageError(f"--max-aspect {settings.max_aspect:g} is below 1", "longer side over shorter side: 3, or 5")
    corpus, processes = Corpus(local_folder(flags.out)), num_processes(flags)
    features = local_folder(flags.features) if flags.features else None
    sets = _evaluation_sets(flags.decontaminate, flags.images)
    with exclusive(corpus), open_pool(processes) as pool:
        folders = [local_folder(folder) for folder in flags.folders]
        filtered = filter_corpus(
            corpus, folders, settings, sets, pool, processes, features=features, dry_run=flags.dry_run
        )
    for source, account in filtered.accounts.items():
        _print(source, account)
    for note in filtered.notes:
        print(f"note: {note}")
    print("dry run: no manifest was written" if flags.dry_run else f"wrote {corpus.manifest}")
    _check_yield(filtered.accounts, flags.min_yield)
    return 0


def _check_yield(accounts: dict[str, SourceAccount], least: float) -> None:
    dropped: Counter[str] = Counter()
    for account in accounts.values():
        dropped.update(account.filtered)
    kept = sum(account.kept for account in accounts.values())
    reasons = {rule: f"{count} {rule}" for rule, count in dropped.most_common(REASONS_SHOWN)}
    check_yield("filter kept", kept, kept + dropped.total(), least, reasons, "loosen these rules, or turn them --off")


def _evaluation_sets(sets: list[str], roots: list[str]) -> list[EvaluationSet]:
    paths, images = _named(sets, "--decontaminate"), _named(roots, "--images")
    if unknown := set(images) - set(paths):
        raise UsageError(f"--images {sorted(unknown)[0]}=... is of no --decontaminate", "give both the same name")
    return [EvaluationSet(name, path, images.get(name, path.parent)) for name, path in paths.items()]


def _named(texts: list[str], flag: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not (equals and path and name.isidentifier()) or name in found:
            raise UsageError(f"{flag} {text} is not NAME=PATH with a distinct name", f"as in {flag} coco=/data/coco")
        found[name] = Path(path)
    return found


def _print(source: str, account: SourceAccount) -> None:
    stored = account.kept + account.filtered.total()
    print(f"{source}: listed {account.accounted}, failed {account.failed.total()}, stored {stored}", file=sys.stdout)
    for rule in sorted(account.filtered, key=list(RULES).index):
        count = account.filtered[rule]
        print(f"  dropped {count:>10}  {count / stored:6.1%}  {rule}")
    print(f"  kept    {account.kept:>10}  {account.kept / stored if stored else 0:6.1%}")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
