"""Text of strangers in Markdown: it is shown as it is."""

from __future__ import annotations

import pytest

from pipeline.run.markdown import as_code, as_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("albef_4m-2026.11", "albef_4m-2026.11"),
        ("a | b", "a \\| b"),
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("&lt;b&gt;", "&amp;lt;b&amp;gt;"),
        ("![x](http://evil.example/x.png)", "!\\[x\\](http://evil.example/x.png)"),
        ("`code` *bold* # head", "\\`code\\` \\*bold\\* \\# head"),
        ("back\\slash", "back\\\\slash"),
        ("two\nlines\u202e", "two\\\\nlines\\\\u202e"),
        ("x" * 300, "x" * 197 + "..."),
    ],
)
def test_markup_is_shown_and_does_nothing(text: str, shown: str) -> None:
    """No cell ends early, no image is loaded, no line begins."""
    assert as_text(text) == shown


def test_code_cannot_be_ended() -> None:
    assert as_code("a`|`b\n") == "`a'\\|'b\\n`"
