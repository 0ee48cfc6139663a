"""The rules that need only the sample: its captions and its size. Each returns what is wrong, or None."""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from data_prep.filters.settings import FilterSettings

Fault = tuple[str, str]
"""Rule and detail."""
MIN_WORDS_FOR_DISTINCT = 10


def image_fault(width: int, height: int, settings: FilterSettings) -> Fault | None:
    """`width` and `height`: of the original as displayed, in pixels."""
    shorter, longer = min(width, height), max(width, height)
    if settings.on("image_size") and shorter < settings.min_side:
        return "image_size", f"{width} x {height}: a side shorter than {settings.min_side}"
    if settings.on("image_aspect") and longer > settings.max_aspect * shorter:
        return "image_aspect", f"{width} x {height}: aspect above {settings.max_aspect:g}"
    return None


def captions_fault(
    captions: Sequence[str], hashes: Sequence[int], common: AbstractSet[int], settings: FilterSettings
) -> Fault | None:
    """The fault of the first caption, if every caption has one: with a single good caption a sample can be used.

    Args:
        hashes: `caption_hash` of each.
        common: the hashes of captions that too many images share.
    """
    first: Fault | None = None
    for text, text_hash in zip(captions, hashes, strict=True):
        fault = caption_fault(text, settings)
        if fault is None and text_hash in common and settings.on("common_caption"):
            fault = "common_caption", f"{_short(text)} stands under more than {settings.max_images_per_caption} images"
        if fault is None:
            return None
        first = first or fault
    if first is not None and len(captions) > 1:
        return first[0], f"{first[1]}; the other {len(captions) - 1} captions fail as well"
    return first


def caption_fault(text: str, settings: FilterSettings) -> Fault | None:
    """The first rule on single captions that a caption fails."""
    for rule, why in (
        ("caption_length", _length_fault),
        ("caption_alphabet", _alphabet_fault),
        ("caption_repetition", _repetition_fault),
    ):
        if settings.on(rule) and (detail := why(text, settings)):
            return rule, f"{_short(text)}: {detail}"
    return None


def caption_hash(text: str) -> int:
    """64 bits, the same for captions that differ only in case and white space."""
    plain = " ".join(text.casefold().split())
    return int.from_bytes(hashlib.blake2b(plain.encode(), digest_size=8).digest(), "little")


def _length_fault(text: str, settings: FilterSettings) -> str | None:
    words, characters = len(text.split()), len(text)
    if words < settings.min_words:
        return f"{words} words, fewer than {settings.min_words}"
    if words > settings.max_words:
        return f"{words} words, more than {settings.max_words}"
    if characters < settings.min_characters:
        return f"{characters} characters, fewer than {settings.min_characters}"
    if characters > settings.max_characters:
        return f"{characters} characters, more than {settings.max_characters}"
    return None


def _alphabet_fault(text: str, settings: FilterSettings) -> str | None:
    kinds = [_kind(character) for character in text if not character.isspace()]
    latin, letters = kinds.count("latin"), len(kinds) - kinds.count("other")
    if letters < settings.min_letters * len(kinds):
        return f"{letters / len(kinds):.0%} letters, less than {settings.min_letters:.0%}"
    if latin < settings.min_latin * letters:
        return f"{latin / letters:.0%} of the letters are Latin, less than {settings.min_latin:.0%}"
    return None


def _repetition_fault(text: str, settings: FilterSettings) -> str | None:
    if run := _character_run(settings.max_character_run).search(text):
        return f"{run[1]!r} {len(run[0])} times in a row"
    words = text.casefold().split()
    times = 1
    for before, word in itertools.pairwise(words):
        times = times + 1 if word == before else 1
        if times > settings.max_word_run:
            return f"{word!r} more than {settings.max_word_run} times in a row"
    if len(words) >= MIN_WORDS_FOR_DISTINCT and len(set(words)) < settings.min_distinct_words * len(words):
        return f"{len(set(words))} different words among {len(words)}, less than {settings.min_distinct_words:.0%}"
    return None


@functools.lru_cache
def _character_run(longest: int) -> re.Pattern[str]:
    return re.compile(rf"(\S)\1{{{longest},}}")


@functools.lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    """`latin`, `letter` (any other, and marks, without which Indic vowels would not count) or `other`."""
    if unicodedata.category(character)[0] not in "LM":
        return "other"
    return "latin" if unicodedata.name(character, "").startswith(("LATIN", "COMBINING")) else "letter"


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else text[:77] + "...")
