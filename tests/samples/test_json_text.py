"""JSON of strangers: read, or a ValueError, and nothing else, for any depth, size and encoding."""

from __future__ import annotations

import json
import math
import sys

import pytest

from samples.json_text import MAX_DEPTH, decode_text, parse_json


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_nesting_has_one_limit_wherever_the_call_comes_from() -> None:
    """The bound is ours: Python's own would let the deep caller fail where the shallow one passes."""

    def deep(levels: int) -> object:
        return parse_json(nested(MAX_DEPTH)) if levels == 0 else deep(levels - 1)

    assert str(parse_json(nested(MAX_DEPTH))) == nested(MAX_DEPTH).decode()
    assert deep(sys.getrecursionlimit() - 300) == parse_json(nested(MAX_DEPTH))
    for data in (nested(MAX_DEPTH + 1), b'{"a":' * 100_000, b"[" * 1_000_000, b'[{"a":' * 200_000):
        with pytest.raises(ValueError, match="nested more than 64 levels"):
            parse_json(data)


def test_brackets_in_texts_do_not_count() -> None:
    for text in ("[" * 500, "{" * 500, '\\"[' * 500, "]" * 500):
        assert parse_json(json.dumps([text, [text]]).encode()) == [text, [text]]
    flat = [[0]] * 5000
    assert parse_json(json.dumps(flat).encode()) == flat


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": ',
        b'"\\',
        b"",
        b"\xff{}",
        b"9" * 5000,
        b"[1,]",
        b'["a\nb"]',
        b"{1: 2}",
        "{}".encode("utf-16"),
        "{}".encode("utf-16-be"),
        "{}".encode("utf-32"),
    ],
    ids=repr,
)
def test_what_is_no_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(data)


def test_values_that_python_takes_are_taken() -> None:
    """NaN, a name twice (the last one counts), a surrogate without its pair: for the caller to judge."""
    assert math.isnan(parse_json(b'{"a": NaN}')["a"])
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}
    assert parse_json(b'"\\ud800"') == "\ud800"


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}') == {"a": 1}
    assert decode_text(b"\xef\xbb\xbfa fine caption") == "a fine caption"
    with pytest.raises(ValueError, match="UTF-16"):
        decode_text("a fine caption".encode("utf-16"))
    with pytest.raises(ValueError, match="byte 0xe9 at 3"):
        decode_text(b"caf\xe9")


@pytest.mark.parametrize("unit", [b'\\"', b'"\\', b'"', b"[\\", b'["', b'{"a":"'], ids=repr)
def test_hostile_text_is_read_once(unit: bytes) -> None:
    """A megabyte of quotes and backslashes: work that grows with the square would take hours."""
    data = b"[" * 65 + (unit * 1_000_000)[:1_000_000]
    with pytest.raises(ValueError):
        parse_json(data)
