"""A wrong command line ends in a message and a way out."""

from __future__ import annotations

import pytest

from base.errors import UsageError
from base.nearest import nearest
from base.parser import Parser


@pytest.fixture
def parser() -> Parser:
    """A program with two commands."""
    parser = Parser(prog="bake")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    cake = commands.add_parser("cake")
    cake.add_argument("--flour-grams", type=int)
    cake.add_argument("--sugar", choices=["brown", "white"])
    commands.add_parser("bread").add_argument("--oven.degrees")
    return parser


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        ([], "bake: the following arguments are required: COMMAND", "see bake --help"),
        (["caek"], "bake: argument COMMAND: invalid choice: 'caek'", "did you mean cake? see bake --help"),
        (
            ["cake", "--sugar", "whiet"],
            "bake cake: argument --sugar: invalid",
            "did you mean white? see bake",
        ),
        (["cake", "--flour-grams", "x"], "bake cake: argument --flour-grams: invalid int", "see bake cake --help"),
        (["cake", "--flour", "3"], "unrecognized arguments: --flour 3", "mean --flour-grams instead of --flour? see"),
        (["cake", "--flourgrams=3"], "--flourgrams=3", "did you mean --flour-grams instead of --flourgrams? see"),
        (["bread", "--oven.degree", "3"], "--oven.degree 3", "mean --oven.degrees instead of --oven.degree? see"),
        (["bread", "--zzz", "--sugra"], "--zzz --sugra", "did you mean --sugar instead of --sugra? see bake --help"),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(parser: Parser, words: list[str], message: str, hint: str) -> None:
    """The program or command, argparse's message, the nearest flag or choice, and where the flags are listed."""
    with pytest.raises(UsageError) as error:
        parser.parse_args(words)
    assert message in error.value.message and hint in error.value.hint
    assert error.value.message.startswith("bake")


def test_a_parser_lists_the_flags_of_its_commands(parser: Parser) -> None:
    assert parser.flags() == ["--help", "--help", "--flour-grams", "--sugar", "--help", "--oven.degrees"]


def test_the_nearest_name_may_lack_its_section() -> None:
    """`lr` is the last part of `optim.lr`; a name that is like none has no nearest."""
    names = ["optim.lr", "optim.betas", "data.workers"]
    assert [nearest(name, names) for name in ("lr", "optm.lr", "optim.betta", "WORKERS", "zebra")] == [
        *("optim.lr", "optim.lr", "optim.betas", "data.workers"),
        None,
    ]
