"""Values of flags: what is in range is taken, the rest is named."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import pytest

from base import flag_types


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (flag_types.positive, "1", 1),
        (flag_types.count, "0", 0),
        (flag_types.seconds, "0.5", 0.5),
        (flag_types.share, "1", 1.0),
        (flag_types.quality, "95", 95),
    ],
)
def test_a_value_in_range_is_taken(kind: Callable[[str], float], text: str, value: float) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (flag_types.positive, "0", "0 is not 1 or more"),
        (flag_types.positive, "1.5", "'1.5' is not a number"),
        (flag_types.count, "-1", "-1 is not 0 or more"),
        (flag_types.seconds, "inf", "inf is not a number of seconds above 0"),
        (flag_types.seconds, "nan", "nan is not a number of seconds above 0"),
        (flag_types.share, "1.01", "1.01 is not between 0 and 1"),
        (flag_types.quality, "100", "100 is not between 1 and 95"),
    ],
)
def test_a_value_out_of_range_is_named(kind: Callable[[str], float], text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as error:
        kind(text)
    assert str(error.value) == message
