"""Pickles of strangers: plain values of any protocol are read, and nothing else happens."""

from __future__ import annotations

import datetime
import os
import pickle
import pickletools
from typing import Any

import pytest

from data_prep.lists.plain_pickle import load_plain

VALUE: Any = {
    "refs": [{"ref_id": 3, "sentences": [{"sent": "né à l'œil", "tokens": ["a", "b"]}], "box": (1.5, -2, 2**70)}],
    "none": [None, True, False, (), (1,), (1, 2), [], {}],
    "many": list(range(3000)),
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_of_every_protocol_are_read(protocol: int) -> None:
    """Also objects that are there twice."""
    twice = [VALUE, VALUE["refs"]]
    assert load_plain(pickle.dumps(twice, protocol=protocol)) == twice


def test_texts_of_python_2_are_read() -> None:
    """Byte strings of protocol 2: UTF-8, or Latin-1 where they are none."""
    assert load_plain(b"\x80\x02]q\x00(U\x05caf\xc3\xa9U\x04caf\xe9e.") == ["café", "café"]


class Runs:
    """What a hostile file holds: loading it would set a variable."""

    def __reduce__(self) -> Any:
        return os.putenv, ("PICKLE_RAN", "1")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "value", [Runs(), os.system, datetime.date(2026, 1, 1), {1, 2}], ids=lambda value: str(value)[:9]
)
def test_what_is_not_plain_is_refused(value: Any, protocol: int) -> None:
    """Functions, objects, sets, by the name of the instruction; nothing is imported."""
    with pytest.raises(ValueError, match=r"the instruction \w+ at byte \d+, which makes no plain value"):
        load_plain(pickle.dumps([1, value], protocol=protocol))


def test_no_instruction_that_names_or_calls_is_known() -> None:
    """Each instruction of pickle that takes a name, an object or a call, alone on a full stack."""
    dangerous = "GLOBAL STACK_GLOBAL INST OBJ REDUCE BUILD NEWOBJ NEWOBJ_EX EXT1 EXT2 EXT4 PERSID BINPERSID NEXT_BUFFER"
    codes = {op.name: op.code.encode("latin-1") for op in pickletools.opcodes}
    for name in dangerous.split():
        with pytest.raises(ValueError, match=rf"the instruction {name} "):
            load_plain(b"(K\x01K\x01" + codes[name] + b"os\nsystem\n\0\0\0.")


def test_damaged_files_are_value_errors() -> None:
    """Cut at every byte; sizes that are larger than the file; stacks that do not fit."""
    for protocol in (0, 2, 4):
        whole = pickle.dumps(VALUE["refs"], protocol=protocol)
        for end in range(len(whole)):
            with pytest.raises(ValueError):
                load_plain(whole[:end])
    for data in (
        b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc.",  # a text of 2**63 bytes
        b"r\xff\xff\xff\xff.",  # remembers at four billion, of an empty stack
        b"K\x01K\x02a.",  # puts into a number
        b"a.",
        b"e.",
        b"(K\x01d.",  # a key without a value
        b"(]K\x01d.",  # a list as a key
        b"h\x07.",
        b"not a pickle",
    ):
        with pytest.raises(ValueError):
            load_plain(data)
    assert load_plain(b"K\x01r\xff\xff\xff\xff.") == 1  # and takes no memory for the others
