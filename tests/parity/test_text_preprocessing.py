"""Caption and question cleaning against the recorded official functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from samples.captions import clean_caption, clean_question
from tests.parity import goldens

FUNCTIONS: dict[str, tuple[Callable[..., str], str]] = {
    "pre_caption": (clean_caption, "max_words"),
    "pre_question": (clean_question, "max_ques_words"),
    "notebook_pre_caption": (partial(clean_caption, name_mask=False), "max_words"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_texts_are_cleaned_as_recorded(name: str) -> None:
    """Every recorded text comes out the same, at every recorded number of words."""
    function, limit = FUNCTIONS[name]
    cases = goldens.load("text_preprocessing").info[name]
    assert cases
    wrong = [
        f"{case['in']!r} cut at {case[limit]}: {ours!r}, recorded {case['out']!r}"
        for case in cases
        if (ours := function(case["in"], case[limit])) != case["out"]
    ]
    assert not wrong, "\n".join(wrong)
