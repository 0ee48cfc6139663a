"""Text of strangers in messages."""

from __future__ import annotations

import pytest

from samples.quote import one_line, quote


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
