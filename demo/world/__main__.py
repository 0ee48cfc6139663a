"""`python -m demo.world OUT`: write a generated world with data for every task."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from base.errors import UserError
from base.flag_types import count, positive, share
from base.parser import Parser
from demo.world.files import write_world
from demo.world.scene import RELATIONS
from demo.world.scenes import WorldSettings, make_world
from samples.quote import printable


def main(argv: list[str] | None = None) -> int:
    """Write the world; returns the exit code: 0, or 2 for what the user can fix."""
    try:
        args = parse(argv)
        settings = WorldSettings(
            seed=args.seed,
            scenes=args.scenes,
            held_out=args.held_out,
            side=args.side,
            things=tuple(args.things),
            relations=tuple(args.relations),
            look_alikes=args.look_alikes,
            noise=args.noise,
        )
        write_world(make_world(settings), args.out, as_zip=args.images == "zip", url_root=args.url_root)
        print(f"world          {args.out}\ndatasheet      {args.out / 'README.md'}")
        return 0
    except UserError as error:
        print(f"error: {printable(error.message)}\nhint: {printable(error.hint)}", file=sys.stderr)
        return error.exit_code


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line. Raises: UsageError."""
    given = WorldSettings()
    parser = Parser(
        prog="python -m demo.world",
        description="Write scenes of simple things, drawn from a seed, with data for every task.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="a folder that does not exist yet")
    parser.add_argument("--seed", type=count, default=given.seed, help="of the world")
    parser.add_argument("--scenes", type=positive, default=given.scenes, metavar="N", help="training scenes")
    parser.add_argument(
        "--held-out", type=positive, default=given.held_out, metavar="N", help="scenes of val, of test and of test_new"
    )
    parser.add_argument("--side", type=positive, default=given.side, metavar="PX", help="of a picture")
    parser.add_argument(
        "--things", type=positive, nargs=2, default=given.things, metavar=("MIN", "MAX"), help="things in a scene"
    )
    parser.add_argument(
        "--relations", nargs="+", choices=RELATIONS, default=given.relations, metavar="R", help="that texts may name"
    )
    parser.add_argument(
        "--look-alikes",
        type=share,
        default=given.look_alikes,
        metavar="SHARE",
        help="of scenes with two things of one color or one shape",
    )
    parser.add_argument(
        "--noise", type=share, default=given.noise, metavar="SHARE", help="of training captions that are exchanged"
    )
    parser.add_argument("--images", choices=("zip", "folder"), default="zip", help="how to store the pictures")
    parser.add_argument(
        "--url-root", metavar="URL", help="also write lists/ for data_prep and img2dataset, with pictures at URL/NAME"
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
