"""Text of strangers in messages."""

from __future__ import annotations

import pytest

from samples.quote import cut_words, one_line, printable, quote, without_logins, without_memory_addresses


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a dog.jpg", "a dog.jpg"),
        ("ein Hund, 犬, 🐕", "ein Hund, 犬, 🐕"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\nerror: forged", "a\\nerror: forged"),
        ("abc\u202egpj.exe", "abc\\u202egpj.exe"),
        ("\ud800", "\\ud800"),
        (12, "12"),
        ("x" * 100, "x" * 100),
        ("x" * 101, "x" * 97 + "..."),
        ("\n" * 60, "\\n" * 48 + "\\..."),
    ],
)
def test_a_value_is_shown_on_one_line_and_cut(value: object, expected: str) -> None:
    """Escapes, newlines, direction marks and lone surrogates are shown, letters of any script stay."""
    assert quote(value) == expected


def test_a_line_keeps_its_length() -> None:
    """The guard at the printer escapes and does not cut."""
    assert one_line("\x1b[2J" + "x" * 300) == "\\x1b[2J" + "x" * 300


def test_a_message_keeps_its_own_lines_and_none_can_be_forged() -> None:
    """A list of mistakes has a line each; a stranger's newline begins an indented one, which is no `error:` of ours."""
    assert (
        printable("two mistakes:\n  seed is x\n  lr is \x1b[31my") == "two mistakes:\n  seed is x\n  lr is \\x1b[31my"
    )
    assert printable("a\nerror: forged\r\n\nhint: do") == "a\n  error: forged\\r\n\n  hint: do"


def test_what_differs_in_every_run_or_is_secret_is_left_out() -> None:
    """Memory addresses of objects, and passwords of URLs."""
    assert without_memory_addresses("<object object at 0x7f3d> failed") == "<object object> failed"
    assert without_logins("https://u:p@ss@h/a@b and s3://k:s@b/x") == "https://***@h/a@b and s3://***@b/x"
    assert printable("cannot read http://user:secret@host/x") == "cannot read http://***@host/x"


def test_a_long_word_of_the_command_line_is_cut_in_a_message() -> None:
    """As argparse repeats it: in quotes or bare, with its flag or after it. Short words stay as they are."""
    word = "x\n" * 300
    for given in ([word], [f"--pairs={word}"]):
        shown = cut_words(f"argument --pairs: invalid int value: {word!r}; {word} {'y' * 90}", [*given, "y" * 90])
        assert len(shown) < 600 and shown.endswith("y" * 90) and "\n" not in shown
