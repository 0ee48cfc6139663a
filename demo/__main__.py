"""`make demo`, or `python -m demo`: the main job, whole, on the pictures that ship with the project."""

from __future__ import annotations

import argparse
import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from albef.errors import ConfigError
from base.errors import UserError
from base.flag_types import positive
from base.parser import Parser
from demo.processes import end_leftovers
from demo.results import RECALL_AT, recalls
from demo.settings import Layout, Settings, open_record
from demo.stages import Stages
from samples.quote import printable


def main(argv: list[str] | None = None) -> int:
    """Run the demo; returns its exit code: 0, 2 for what the user can fix, 75 when stopped and saved."""
    try:
        args = parse(argv)
        layout = Layout(args.run_dir)
        with _alone(layout.root):
            run(layout, Settings(steps=args.steps, seed=args.seed, pictures=args.pictures), args.port)
        return 0
    except UserError as error:
        print(f"error: {printable(error.message)}\nhint: {printable(error.hint)}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from here", file=sys.stderr)
        return 130


def run(layout: Layout, settings: Settings, port: int) -> None:
    """Every stage, then the table."""
    began = time.monotonic()
    record = open_record(layout.record, settings)
    if ended := end_leftovers(layout.root):
        print(f"ended {ended} processes that an earlier, killed start had left", flush=True)
    record.save(layout.record)
    stages = Stages(layout, record)
    stages.download(port)
    stages.pretrain()
    stages.export()
    stages.evaluate()
    stages.report()
    results = stages.results()
    print(table(results["untrained"], results["trained"]))
    print(elapsed({name: stage["seconds"] for name, stage in record.stages.items()}, time.monotonic() - began))
    from demo.report import trained_by

    print("\n".join(f"{name:14} {value}" for name, value in trained_by(layout)))
    print(f"model          {layout.export}\nreport         {layout.report}")


def table(untrained: dict[str, float], trained: dict[str, float]) -> str:
    """A table of recalls in percent beside chance."""
    count = f"{trained['num_images']:.0f} held-out pictures and their names"
    head = "".join(f"{f'R@{k}':>8}" for k in RECALL_AT)
    lines = [
        "",
        f"Zero-shot retrieval, {count}, percent",
        f"{'':28}{'picture -> caption':>24}  {'caption -> picture':>24}",
        f"{'':28}{head}  {head}",
    ]
    for name, metrics, prefix in (
        ("chance", trained, "chance_"),
        ("before training", untrained, ""),
        ("after training", trained, ""),
        ("after, without re-ranking", trained, "itc_"),
    ):
        values = [f"{value:8.1f}" for value in recalls(metrics, prefix)]
        lines.append(f"{name:28}{''.join(values[:3])}  {''.join(values[3:])}")
    return "\n".join(lines) + "\n"


def elapsed(stages: dict[str, float], this_start_s: float) -> str:
    """Seconds of each stage on one line."""
    each = ", ".join(f"{name} {seconds:.0f}" for name, seconds in stages.items())
    return f"elapsed        {sum(stages.values()):.0f} s in all: {each}; this start {this_start_s:.0f}"


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line. Raises: ConfigError for values that are out of range."""
    parser = Parser(
        prog="python -m demo",
        description="Serve the sample pictures, download, pretrain, evaluate, export, report. "
        "The same command again resumes where it stopped.",
    )
    parser.add_argument("--run-dir", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: runs/demo")
    parser.add_argument("--steps", type=positive, metavar="N", help="optimizer steps; default: the recipe's")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    parser.add_argument("--pictures", type=positive, metavar="N", help="at most N pictures a list; default: all")
    parser.add_argument("--port", type=int, default=0, help="of the picture server on loopback; default: any free one")
    args = parser.parse_args(argv)
    if not 0 <= args.port < 65_536 or args.seed < 0:
        raise ConfigError(
            f"--port {args.port} --seed {args.seed}: out of range", "ports end at 65535, seeds are not negative"
        )
    return args


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Lock the run folder for this process; the lock ends with the process, also after a kill."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".demo.lock").open("w")
    except OSError as error:
        raise ConfigError(f"{folder}: {error.strerror}", "give another --run-dir") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another demo is running in {folder}", "wait for it, or give another --run-dir"
            ) from None
        yield


if __name__ == "__main__":
    sys.exit(main())
