"""The accuracy of VQA (Antol et al. 2015): an answer counts as right when three of the ten people gave it.

The rules of normalisation are those of the official evaluation, with its particularities, because another rule gives
another score: https://github.com/GT-Vision-Lab/VQA (as of VQA 2.0).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

PEOPLE_FOR_FULL = 3
"""An answer that this many of the others gave scores 1."""
ARTICLES = {"a", "an", "the"}
NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
DIGITS = {"none": "0"} | {word: str(number) for number, word in enumerate(NUMBER_WORDS.split())}
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
COMMA_IN_NUMBER = re.compile(r"\d,\d", re.ASCII)
STOP = re.compile(r"\.(?!\d)")
"""A full stop, unless a digit follows."""
MAX_STOPS = 32
"""Full stops that the official code removes of one answer: it gives a flag of that value as the count."""
CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd
someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's
they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's
where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've
y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
"""Words that are recognised when one of their apostrophes is missing."""


def _misspelled(word: str) -> list[str]:
    """The word without one of its apostrophes, for each."""
    return [word[:at] + word[at + 1 :] for at, letter in enumerate(word) if letter == "'"]


SPELLING = {wrong: word for word in CONTRACTIONS.split() for wrong in _misspelled(word)} | {"somebody'd": "somebodyd"}
"""What is written to what is meant; the last is the official table's, the other way around."""


def without_punctuation(text: str) -> str:
    """A text without punctuation, as the official evaluation does to the people's answers.

    A mark becomes a blank; it is removed where a blank stands beside one such mark of the text, or a number has a
    comma. Full stops are removed but before a digit.
    """
    comma = COMMA_IN_NUMBER.search(text) is not None
    found = text
    for mark in PUNCTUATION:
        apart = f"{mark} " in text or f" {mark}" in text
        found = found.replace(mark, "" if apart or comma else " ")
    return STOP.sub("", found, count=MAX_STOPS)


def normalised(answer: str) -> str:
    """A model's answer in lower case, without punctuation and articles, numbers as digits, contractions corrected."""
    text = without_punctuation(answer.replace("\n", " ").replace("\t", " ").strip())
    words = [DIGITS.get(word, word) for word in text.lower().split()]
    return " ".join(SPELLING.get(word, word) for word in words if word not in ARTICLES)


def accuracy(answer: str, people: Sequence[str]) -> float:
    """How right an answer is, in [0, 1]: min(n / 3, 1), averaged over leaving each person out.

    The people's answers lose their punctuation where they are not all the same, and change in nothing else.

    Args:
        answer: the model's.
        people: the answers of ten people to the question, or of another number.
    """
    given = Counter(people)
    if len(given) > 1:
        given = Counter(without_punctuation(one) for one in people)
    same = given[normalised(answer)]
    with_all, without_one = (min(1.0, n / PEOPLE_FOR_FULL) for n in (same, same - 1))
    return (same * without_one + (len(people) - same) * with_all) / len(people)


def accuracies(answers: Sequence[str], people: Sequence[Sequence[str]], types: Sequence[str]) -> dict[str, float]:
    """Mean accuracy in percent, and that of each type of answer.

    Args:
        answers: (N,) the model's.
        people: (N,) the people's answers to each question.
        types: (N,) `yes/no`, `number` or `other`; empty where it is not known.

    Returns: `accuracy`, and `accuracy_TYPE` for each type among the questions, in that order.
    """
    each = [accuracy(answer, given) for answer, given in zip(answers, people, strict=True)]
    values = {"accuracy": 100.0 * sum(each) / len(each)}
    for kind in sorted({kind for kind in types if kind}, key=lambda kind: (kind == "other", kind == "number", kind)):
        of_kind = [value for value, its in zip(each, types, strict=True) if its == kind]
        values[f"accuracy_{kind.replace('/', '_')}"] = 100.0 * sum(of_kind) / len(of_kind)
    return values


def most_frequent(people: Sequence[Sequence[str]]) -> str:
    """The answer that most people gave, over all questions: what a model that learned nothing else would give.

    Of several the first in the alphabet.
    """
    counts = Counter(answer for given in people for answer in given)
    return min(counts, key=lambda answer: (-counts[answer], answer))
