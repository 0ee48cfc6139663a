"""The command line: what is printed, the exit codes, and that nothing is imported before it is needed."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from base.parser import Parser
from pipeline import cli
from pipeline.config.flags import split_overrides
from pipeline.config.recipe import shipped_recipes
from pipeline.config.resolve import recipe_keys


def error_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[str, str]:
    """error and hint of a command that is refused: exit 2, nothing on stdout, no traceback."""
    assert cli.main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    error, hint = captured.err.strip().rsplit("\n", 1)
    assert error.startswith("error: ") and hint.startswith("hint: ")
    return error, hint


def test_help_lists_the_commands_and_imports_nothing_heavy() -> None:
    """In a fresh process: torch, deepspeed and pydantic stay outside."""
    program = (
        "import sys; from pipeline.cli import main; code = main(['--help']);"
        "heavy = {'torch', 'deepspeed', 'transformers', 'timm', 'pydantic'} & set(sys.modules);"
        "sys.exit(code or (f'imported {heavy}' if heavy else 0))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert all(command in done.stdout for command in cli.COMMANDS)


def test_help_of_pretrain_lists_every_recipe_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its docstring and default, from the dataclasses; and the order of precedence."""
    monkeypatch.setenv("COLUMNS", "1000")  # a narrow terminal breaks words at their hyphens
    assert cli.main(["pretrain", "--help"]) == 0
    text = capsys.readouterr().out
    assert [key.name for key in recipe_keys() if f"--{key.name} " not in text] == []
    folded = " ".join(text.split())
    assert [key.name for key in recipe_keys() if key.doc not in folded] == []
    assert "--optim.weight_decay a number (default: 0.02)" in folded
    assert "defaults < preset < recipe < flags" in folded
    assert "--run-dir" in text and "--resume" in text


def test_configuration_needs_no_deepspeed() -> None:
    """Importing it takes many seconds, and `check` runs where it need not be installed."""
    program = "import sys, pipeline.planning.check; sys.exit('deepspeed' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=240).returncode == 0


def test_the_module_runs_as_a_program() -> None:
    """`python -m pipeline`: its own exit code, its error on stderr."""
    done = subprocess.run([sys.executable, "-m", "pipeline", "chekc"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: there is no command chekc\n"
        "hint: did you mean check? there are check, order, pretrain, finetune, ablate, status, replay, evaluate, "
        "export, import, bench\n"
    )


def test_no_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A refusal never exits 0."""
    assert error_of(capsys)[0] == "error: no command given"


def test_a_missing_recipe_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Whether none is named or one that does not exist."""
    error, hint = error_of(capsys, "pretrain")
    assert error == "error: pipeline pretrain: the following arguments are required: RECIPE"
    assert all(name in hint for name in shipped_recipes())
    error, hint = error_of(capsys, "pretrain", "albef_14n")
    assert error == "error: there is no recipe albef_14n"
    assert "did you mean albef_14m?" in hint and all(name in hint for name in shipped_recipes())


def test_flags_and_keys_are_found_anywhere_and_misspelt_ones_are_reported_together(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Before and after the recipe, with = and without."""
    error, hint = error_of(
        capsys, "pretrain", "--optm.lr", "3", "demo", "--run-dri=x", "--optim.lr", "fast", "--resume", "auto"
    )
    assert error.startswith("error: recipe demo has 3 mistakes:")
    assert "--optm.lr is not a flag or a key (did you mean --optim.lr?)" in error
    assert "did you mean --run-dir?" in error and "optim.lr should be a number, is 'fast'" in error
    assert "pretrain --help" in hint


def test_wrong_values_of_a_command_s_own_flags_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """argparse's complaints come out as error and hint too."""
    assert "invalid choice: 'maybe'" in error_of(capsys, "pretrain", "demo", "--resume", "maybe")[0]
    assert "expected one argument" in error_of(capsys, "pretrain", "demo", "--resume")[0]
    assert "unrecognized arguments: second" in error_of(capsys, "pretrain", "demo", "second")[0]
    assert "needs a value" in error_of(capsys, "pretrain", "demo", "--seed")[0]
    error, hint = error_of(capsys, "import", "x.pth", "--out", "x", "--image-sise", "64")
    assert (
        "unrecognized arguments: --image-sise 64" in error
        and "did you mean --image-size instead of --image-sise?" in hint
    )


@pytest.mark.parametrize(
    "words",
    [["pretrain", "demo", "--resume"], ["pretrain", "demo"], ["import", "x.pth", "--out", "x", "--batch-size"], []],
)
def test_a_word_of_the_command_line_is_shown_escaped_and_cut(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong value, an argument too many, a command that is none: two lines, no escapes, 200 characters of it."""
    assert cli.main([*words, "\x1b[2J\nerror: forged " + "x" * 5000]) == 2
    shown = capsys.readouterr().err
    lines = shown.splitlines()
    assert lines[0].startswith("error: ") and lines[1].startswith("hint: ") and len(lines) == 2
    assert "\x1b" not in shown and r"\x1b[2J" in shown and "x" * 200 not in shown


def test_debug_shows_the_traceback() -> None:
    """Anywhere on the line."""
    with pytest.raises(Exception, match="no recipe nope"):
        cli.main(["pretrain", "nope", "--debug"])


def test_other_ranks_say_who_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight ranks with one mistake would otherwise look like one rank with eight."""
    monkeypatch.setenv("RANK", "3")
    assert cli.main(["pretrain", "nope"]) == 2
    assert capsys.readouterr().err.startswith("[rank 3] error: there is no recipe nope\n[rank 3] hint: ")


def test_own_flags_are_parted_from_keys() -> None:
    """A key without a value does not swallow the flag after it."""
    parser = Parser(prog="x")
    parser.add_argument("recipe")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--json", action="store_true")
    own, keys = split_overrides(
        ["--a.b", "1", "demo", "--json", "--c=2", "--run-dir", "x", "--d", "--run-dir=y", "--e", "-1"], parser
    )
    assert own == ["demo", "--json", "--run-dir", "x", "--run-dir=y"]
    assert keys == ["--a.b", "1", "--c=2", "--d", "--e", "-1"]


@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if name not in cli.TAKES_RECIPE])
def test_every_command_of_the_table_has_its_module(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each brings its flags and a `run`."""
    assert cli.main([command, "--help"]) == 0
    assert f"usage: pipeline {command}" in capsys.readouterr().out
    module = importlib.import_module(cli.COMMANDS[command][0])
    assert callable(module.run)
    module.add_arguments(argparse.ArgumentParser())


@pytest.mark.parametrize(
    ("package", "command"),
    [("pydantic", "check demo"), ("torch", "evaluate retrieval --model . --data . --out none/result.json")],
)
def test_a_dependency_that_is_not_installed_is_an_error_with_a_hint(package: str, command: str) -> None:
    """Not a traceback, whether the command's module imports it or its `run`."""
    code = f"import sys; sys.modules['{package}'] = None; from pipeline.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", code, *command.split()], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        f"error: {package} is not installed\nhint: install the project with `pip install -e .[train]`\n",
    )


def test_a_word_that_is_not_utf8_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of Latin-1 bytes, as the operating system hands it over: an error, not a failure deep in Arrow."""
    error, hint = error_of(capsys, "status", os.fsdecode(b"l\xe4ufe"))
    assert error == "error: l\\udce4ufe holds bytes that are not UTF-8" and "LC_ALL=C.UTF-8" in hint
