"""`python -m data_prep COMMAND`: errors a user can cause end in `error:` and `hint:`, exit 2, and no traceback."""

from __future__ import annotations

import contextlib
import errno
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn, TextIO

from base.errors import UsageError, UserError
from base.parser import Parser
from base.standard_streams import print_to_stderr, release_unwritable
from data_prep.commands import (
    download,
    import_tars,
    list_source,
    pack,
    refer,
    report,
    retry,
    sources,
    status,
    verify,
)
from data_prep.commands import filter as filter_command
from samples.json_text import NOT_UTF8_HINT, is_unicode
from samples.quote import cut_words, printable, quote, visible

COMMANDS = {
    "sources": ("what each source is, what it still yields, and what it takes", sources),
    "list": ("a source's published files -> one normalised list", list_source),
    "download": ("fetch a list of image URLs into shards (img2dataset)", download),
    "retry": ("download again the rows whose failure may be gone by now", retry),
    "pack": ("put local images with annotation lists into shards", pack),
    "import": ("put ready-made tars (WebDataset, img2dataset) into shards", import_tars),
    "refer": ("RefCOCO's phrases with boxes, from REFER's files, to lists for grounding", refer),
    "verify": ("check every shard and write manifest.parquet", verify),
    "filter": ("choose samples by rules, duplicates and evaluation images: a corpus with a manifest", filter_command),
    "report": ("one HTML page about a corpus, which opens offline", report),
    "status": ("what is done, what is left, failures by reason", status),
}
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
EXIT_PIPE_CLOSED = 141


def build_parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and the parser of each command by the command's name."""
    parser = Parser(prog="data_prep", description="Make verified shards from URL lists and local images.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    added = {}
    for name, (summary, module) in COMMANDS.items():
        command = subparsers.add_parser(name, help=summary, description=summary)
        module.add_flags(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
        added[name] = command
    return parser, added


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 all is well, 1 wrong or unfinished, 2 a mistake of the user."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    sigterm_before = signal.signal(signal.SIGTERM, _terminated)
    out: object = None
    try:
        if odd := next((word for word in arguments if not is_unicode(word)), ""):  # Arrow takes no such path
            raise UsageError(f"{quote(odd)} holds bytes that are not UTF-8", NOT_UTF8_HINT)
        parser, by_name = build_parser()
        parsed, unknown = parser.parse_known_args(arguments)
        out = getattr(parsed, "out", None)
        if unknown:
            by_name[parsed.command].error(f"unrecognized arguments: {quote(' '.join(unknown), 200)}")
        with contextlib.redirect_stdout(_Visible(sys.stdout)):
            code: int = parsed.run(parsed)
        sys.stdout.flush()
        return code
    except UserError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        message, hint = (printable(cut_words(text, arguments)) for text in (error.message, error.hint))
        print_to_stderr(f"error: {message}\nhint: {hint}")
        return error.exit_code
    except BrokenPipeError:  # `| head` has seen enough
        return EXIT_PIPE_CLOSED
    except OSError as error:
        if "--debug" in arguments:
            traceback.print_exc()
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        path = error.filename or (out if full else None)
        where = f"{quote(path)}: " if path else ""
        fix = "make room on the disk of the output folder" if full else "fix that"
        print_to_stderr(f"error: {where}{quote(error.strerror or error)}\nhint: {fix}, then run the same command again")
        return 2
    except KeyboardInterrupt:
        print_to_stderr("interrupted: finished shards stay, the same command resumes from there")
        return EXIT_INTERRUPTED
    except _Terminated:
        print_to_stderr("terminated: finished shards stay, the same command resumes from there")
        return EXIT_TERMINATED
    finally:
        signal.signal(signal.SIGTERM, sigterm_before)
        release_unwritable()


class _Visible:
    """Stdout that shows control characters as escapes, except line feeds: reports quote strangers' files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(visible(text))
        return len(text)

    def flush(self) -> None:
        self._stream.flush()


class _Terminated(BaseException):
    """SIGTERM arrived. It unwinds like KeyboardInterrupt, so that all child processes are ended too."""


def _terminated(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated
