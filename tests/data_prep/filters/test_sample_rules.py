"""Rules that see one sample: hand-made cases on both sides of each limit."""

from __future__ import annotations

import pytest

from data_prep.filters.sample_rules import caption_fault, caption_hash, captions_fault, image_fault
from data_prep.filters.settings import FilterSettings

DEFAULTS = FilterSettings()

FAULTS = {
    "a dog": None,
    "sunset": ("caption_length", "1 words, fewer than 2"),
    "a b": ("caption_length", "3 characters, fewer than 5"),
    "word " * 101: ("caption_length", "101 words, more than 100"),
    "two " + "x" * 1000: ("caption_length", "1004 characters, more than 1000"),
    "IMG 20240131 17:45:12": ("caption_alphabet", "16% letters, less than 50%"),
    "€ 19.99 now": ("caption_alphabet", "33% letters, less than 50%"),
    "Ein schöner Hund": None,
    "美しい 夕焼けの海": None,
    "सुन्दर कुत्ता": None,  # half of its characters are vowel signs, which are marks and not letters
    "a looooooooong way": None,
    "a looooooooooong way": ("caption_repetition", "'o' 11 times in a row"),
    "sale Sale SALE today": None,
    "sale Sale SALE sale today": ("caption_repetition", "'sale' more than 3 times in a row"),
    "buy red shoes and buy blue shoes and buy red hats": None,
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_caption_fails_by_the_first_rule_that_it_breaks(text: str) -> None:
    """The rule, and a detail that has the number in it."""
    fault = caption_fault(text, DEFAULTS)
    wanted = FAULTS[text]
    if wanted is None:
        assert fault is None
        return
    assert fault is not None and fault[0] == wanted[0]
    assert fault[1].endswith(wanted[1])


def test_different_words_count_from_ten_words_on() -> None:
    """Two of twelve are too few; of eight words, runs alone decide."""
    assert caption_fault("buy shoes " * 4, DEFAULTS) is None
    fault = caption_fault("buy shoes " * 6, DEFAULTS)
    assert fault == ("caption_repetition", f"{'buy shoes ' * 6!r}: 2 different words among 12, less than 30%")


def test_the_share_of_latin_letters_is_a_rule_when_asked_for() -> None:
    """Of seven letters three are Latin; accents do not make a letter another alphabet's."""
    strict = FilterSettings(min_latin=0.5)
    assert caption_fault("foo соба", DEFAULTS) is None
    fault = caption_fault("foo соба", strict)
    assert fault == ("caption_alphabet", "'foo соба': 43% of the letters are Latin, less than 50%")
    assert caption_fault("déjà vu", strict) is None


def test_a_rule_that_is_off_drops_nothing() -> None:
    off = FilterSettings(off=("caption_length", "image_size"))
    assert caption_fault("sunset", off) is None
    assert image_fault(10, 10, off) is None
    assert image_fault(10, 100, off) == ("image_aspect", "10 x 100: aspect above 5")


def test_image_limits_are_inclusive() -> None:
    """64 pixels and five to one still pass, upright and lying."""
    assert image_fault(64, 320, DEFAULTS) is None
    assert image_fault(320, 64, DEFAULTS) is None
    assert image_fault(63, 200, DEFAULTS) == ("image_size", "63 x 200: a side shorter than 64")
    assert image_fault(64, 321, DEFAULTS) == ("image_aspect", "64 x 321: aspect above 5")


def judge(captions: list[str], common: frozenset[int] = frozenset()) -> tuple[str, str] | None:
    return captions_fault(captions, [caption_hash(text) for text in captions], common, DEFAULTS)


def test_one_good_caption_keeps_the_sample() -> None:
    """Tars are never rewritten, so a bad caption beside a good one stays, and training may draw it."""
    assert judge(["x", "a good caption"]) is None
    fault = judge(["x", "1 2 3 4 5 6"])
    assert fault == ("caption_length", "'x': 1 words, fewer than 2; the other 1 captions fail as well")


def test_a_common_caption_is_known_by_its_words() -> None:
    """For any case and spaces; another caption of the same image saves it."""
    common = frozenset({caption_hash("image not available")})
    fault = judge(["Image  not AVAILABLE"], common)
    assert fault is not None and fault[0] == "common_caption" and fault[1].endswith("stands under more than 100 images")
    assert judge(["image not available", "a dog"], common) is None
