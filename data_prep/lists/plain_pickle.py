"""Reads a pickle of plain values: lists, dicts, tuples, texts, numbers, None. Nothing in it can be imported or called.

Python's own unpickler runs what a file names, and one that refuses names still obeys sizes that the file states. So the
instructions are interpreted here, those that make plain values; any other one is an error.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from typing import Any

MAX_INSTRUCTIONS = 200_000_000
"""Instructions of a pickle; a longer one is an error."""
_MARK = object()
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT")
_TEXTS = ("STRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8")
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_BYTE_STRINGS = ("BINSTRING", "SHORT_BINSTRING")


def load_plain(data: bytes) -> Any:
    """The value of a pickle of any protocol.

    Texts that Python 2 wrote as bytes are read as UTF-8, or as Latin-1 where they are none.

    Raises: ValueError for anything but a whole pickle of plain values, naming the instruction; no other error.
    """
    try:
        return _interpret(data)
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise ValueError(f"a damaged pickle ({type(error).__name__})") from error


def _interpret(data: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    value: Any
    for number, (instruction, value, place) in enumerate(pickletools.genops(data)):
        name = instruction.name
        if number >= MAX_INSTRUCTIONS:
            raise ValueError(f"more than {MAX_INSTRUCTIONS:,} instructions")
        if name in _NUMBERS or name in _TEXTS:
            stack.append(value)
        elif name in _BYTE_STRINGS:
            stack.append(_text(value))
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[value] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[value])
        elif name == "APPEND":
            element = stack.pop()
            _of(list, stack).append(element)
        elif name == "APPENDS":
            elements = _since_mark(stack)
            _of(list, stack).extend(elements)
        elif name == "SETITEM":
            element, key = stack.pop(), stack.pop()
            _of(dict, stack)[key] = element
        elif name == "SETITEMS":
            elements = _since_mark(stack)
            _of(dict, stack).update(_pairs(elements))
        elif name == "LIST":
            stack.append(_since_mark(stack))
        elif name == "TUPLE":
            stack.append(tuple(_since_mark(stack)))
        elif name == "DICT":
            stack.append(dict(_pairs(_since_mark(stack))))
        elif name in _SHORT_TUPLES:
            count = _SHORT_TUPLES[name]
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "POP":
            stack.pop()
        elif name == "STOP":
            return stack.pop()
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"the instruction {name} at byte {place}, which makes no plain value")
    raise ValueError("a pickle that ends early")


def _text(value: str) -> str:
    """`pickletools` gives the bytes as Latin-1."""
    try:
        return value.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        return value


def _of(kind: type[Any], stack: list[Any]) -> Any:
    """The top of the stack, which must be of this kind."""
    if type(stack[-1]) is not kind:
        raise ValueError(f"a pickle that puts elements into a {type(stack[-1]).__name__}")
    return stack[-1]


def _since_mark(stack: list[Any]) -> list[Any]:
    """What lies above the last mark, which is taken off with it."""
    place = len(stack) - 1
    while stack[place] is not _MARK:
        place -= 1
        if place < 0:
            raise ValueError("a damaged pickle (no mark)")
    elements = stack[place + 1 :]
    del stack[place:]
    return elements


def _pairs(elements: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Keys and values in turns."""
    return zip(elements[::2], elements[1::2], strict=True)
