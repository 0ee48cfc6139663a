"""`python -m data_prep COMMAND`: errors a user can cause end in `error:` and `hint:`, exit 2, and no traceback."""

from __future__ import annotations

import argparse
import difflib
import errno
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from data_prep import commands
from data_prep.errors import UsageError, UserError
from data_prep.image_encoding import ImageSettings
from data_prep.patient_opener import FetchLimits

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class Parser(argparse.ArgumentParser):
    """argparse, with its complaints as UsageError and the nearest flag in the hint."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, self._nearest(message) or f"see {self.prog} --help")

    def _nearest(self, message: str) -> str:
        unknown = re.findall(r"(?:unrecognized arguments: |\s)(--[\w-]+)", message) if "unrecognized" in message else []
        hints = []
        for flag in unknown:
            flags = self.all_flags()
            begun = [known for known in flags if known.startswith(flag)]
            near = begun or difflib.get_close_matches(flag, flags, n=1, cutoff=0.5)
            hints += [f"did you mean {near[0]} instead of {flag}?"] if near else []
        choice = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if choice:
            names = [name.strip(" '") for name in choice[2].split(",")]
            hints += [f"did you mean {near}?" for near in difflib.get_close_matches(choice[1], names, n=1)]
        return " ".join(hints)

    def all_flags(self) -> list[str]:
        return [flag for action in self._actions for flag in action.option_strings if flag.startswith("--")]


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and the one of each command by name."""
    parser = Parser(
        prog="data_prep", description="From URL lists and local images to verified shards.", allow_abbrev=False
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    added = {}
    for name, summary, add_flags in (
        ("download", "fetch a list of image addresses into shards (img2dataset)", _download_flags),
        ("pack", "put local images with annotation lists into shards", _pack_flags),
        ("verify", "check every shard and write manifest.parquet", _verify_flags),
        ("status", "what is done, what is left, failures by reason", _status_flags),
    ):
        command = subparsers.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        add_flags(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        added[name] = command
    return parser, added


def _download_flags(parser: Parser) -> None:
    limits = FetchLimits()
    parser.add_argument("--urls", required=True, metavar="FILE", help="list: .tsv, .csv, .jsonl or .parquet")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for shards and manifest; the same to go on")
    parser.add_argument("--url-col", default="url", metavar="NAME", help="column of the address (default: url)")
    parser.add_argument(
        "--caption-col",
        action="append",
        metavar="NAME",
        help="column of the caption or list of captions; repeat it for several (default: caption)",
    )
    parser.add_argument("--columns", metavar="A,B", help="names of the columns of a TSV or CSV without a header")
    _shard_flags(parser)
    parser.add_argument(
        "--part",
        default="1/1",
        metavar="I/N",
        help="make every N-th shard only, beginning with the I-th: for N machines that share --out; then `verify`",
    )
    parser.add_argument("--processes", type=_positive, metavar="N", help="workers (default: one a core)")
    parser.add_argument("--threads", type=_positive, default=32, metavar="N", help="requests in flight a worker (32)")
    parser.add_argument(
        "--timeout", type=_seconds, default=limits.timeout_s, metavar="S", help="a server's silence (10)"
    )
    parser.add_argument(
        "--image-timeout", type=_seconds, default=limits.image_timeout_s, metavar="S", help="one image in all (60)"
    )
    parser.add_argument("--retries", type=_count, default=limits.retries, metavar="N", help="further attempts (2)")
    parser.add_argument(
        "--retry-pause", type=_seconds, default=limits.pause_s, metavar="S", help="before the first; doubles (1)"
    )
    parser.add_argument("--user-agent-token", metavar="NAME", help="name to give to servers, and to heed opt-outs for")
    parser.add_argument(
        "--min-yield", type=_share, default=0.1, metavar="F", help="stop when a shard gets a smaller share (0.1)"
    )
    parser.add_argument(
        "--stall-timeout", type=_seconds, metavar="S", help="restart img2dataset after such a silence (300, or more)"
    )
    parser.add_argument(
        "--attempts", type=_positive, default=5, metavar="N", help="fruitless starts before giving up (5)"
    )
    parser.set_defaults(run=commands.download)


def _pack_flags(parser: Parser) -> None:
    parser.add_argument(
        "--annotations", required=True, nargs="+", metavar="FILE", help="JSON lists of {image, caption}"
    )
    parser.add_argument("--images", required=True, metavar="ROOT", help="folder that the images' paths begin in")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for shards and manifest; the same to go on")
    _shard_flags(parser)
    parser.add_argument("--processes", type=_positive, metavar="N", help="workers (default: one a core)")
    parser.set_defaults(run=commands.pack)


def _shard_flags(parser: Parser) -> None:
    images = ImageSettings()
    parser.add_argument(
        "--source", metavar="NAME", help="name of the source, in keys and manifest (default: the list's)"
    )
    parser.add_argument("--shard-size", type=_positive, default=10_000, metavar="N", help="listed rows a shard (10000)")
    parser.add_argument(
        "--image-size",
        type=_positive,
        default=images.image_size,
        metavar="PX",
        help="shortest side, never enlarged (288)",
    )
    parser.add_argument("--jpeg-quality", type=_quality, default=images.jpeg_quality, metavar="Q", help="1 to 95 (95)")
    parser.add_argument(
        "--max-pixels",
        type=_positive,
        default=images.max_pixels,
        metavar="N",
        help="refuse larger originals (100000000)",
    )
    parser.add_argument(
        "--max-image-bytes",
        type=_positive,
        default=FetchLimits().max_image_bytes,
        metavar="N",
        help="likewise (50000000)",
    )


def _verify_flags(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="the --out folder of a download or pack")
    parser.add_argument(
        "--sample",
        type=_share,
        default=1.0,
        metavar="F",
        help="share of the images to decode; hashes are always checked",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the choice of images to decode (0)")
    parser.add_argument("--processes", type=_positive, metavar="N", help="workers (default: one a core)")
    parser.add_argument("--keep-going", action="store_true", help="write a manifest of the good shards; still exit 1")
    parser.set_defaults(run=commands.verify)


def _status_flags(parser: Parser) -> None:
    parser.add_argument("folder", metavar="DIR", help="the --out folder of a download or pack")
    parser.set_defaults(run=commands.status)


def _positive(text: str) -> int:
    value = _number(text, int)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return int(value)


def _count(text: str) -> int:
    value = _number(text, int)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return int(value)


def _seconds(text: str) -> float:
    value = _number(text, float)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds above 0")
    return value


def _share(text: str) -> float:
    value = _number(text, float)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _quality(text: str) -> int:
    value = _number(text, int)
    if not 1 <= value <= 95:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 95")
    return int(value)


def _number(text: str, kind: type[int] | type[float]) -> float:
    try:
        return kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 whole, 1 wrong or unfinished, 2 a user's error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sigterm_before = signal.signal(signal.SIGTERM, _terminated)
    try:
        parser, by_name = build_parser()
        parsed, unknown = parser.parse_known_args(arguments)
        if unknown:
            by_name[parsed.command].error(f"unrecognized arguments: {' '.join(unknown)}")
        code: int = parsed.run(parsed)
        return code
    except UserError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"error: {error.message}\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        where = f"{error.filename}: " if error.filename else ""
        cure = "make room on the disk of the output folder" if error.errno == errno.ENOSPC else "mend that"
        print(
            f"error: {where}{error.strerror or error}\nhint: {cure}, then run the same command again", file=sys.stderr
        )
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished shards stay, the same command goes on from there", file=sys.stderr)
        return EXIT_INTERRUPTED
    except _Terminated:
        print("terminated: finished shards stay, the same command goes on from there", file=sys.stderr)
        return EXIT_TERMINATED
    finally:
        signal.signal(signal.SIGTERM, sigterm_before)


class _Terminated(BaseException):
    """SIGTERM arrived: unwinds like KeyboardInterrupt, so that the whole process tree is ended."""


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated
