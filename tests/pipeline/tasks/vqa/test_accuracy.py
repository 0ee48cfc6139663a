"""The official accuracy of VQA, against values worked out by hand and a brute force over the people left out."""

from __future__ import annotations

import pytest

from pipeline.tasks.vqa.accuracy import accuracies, accuracy, most_frequent, normalised, without_punctuation


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("The Two dogs.", "2 dogs"),
        ("an apple\n", "apple"),
        ("none", "0"),
        ("eleven", "eleven"),
        ("black/white", "black white"),  # a blank on neither side: the mark becomes one
        ("black - white", "black white"),  # a blank beside it: the mark is removed
        ("black- white/gray", "black white gray"),
        ("1,000", "1000"),  # a comma in a number: every mark is removed
        ("1,000-2", "10002"),
        ("3.5 m.", "3.5 m"),
        ("p.m.", "pm"),
        ("dont", "don't"),
        ("couldntve", "couldntve"),
        ("couldnt've", "couldn't've"),
        ("Somebody'd", "somebodyd"),
        ("lets", "lets"),
        ("it's 5:30", "it's 5:30"),
        ("what?!", "what"),
        ("." * 40, "." * 8),  # at most 32 are removed
    ],
)
def test_answers_are_normalised_as_officially(written: str, meant: str) -> None:
    """Punctuation, number words, articles, contractions."""
    assert normalised(written) == meant


def left_out(answer: str, people: list[str]) -> float:
    """The definition, person by person."""
    each = [min(1.0, sum(other == answer for other in people[:i] + people[i + 1 :]) / 3) for i in range(len(people))]
    return sum(each) / len(each)


@pytest.mark.parametrize(("same", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_accuracy_is_the_mean_over_people_left_out(same: int, expected: float) -> None:
    """Of ten: one gives 9/10 of a third, three give 7/10 of 1 and 3/10 of two thirds."""
    people = ["red"] * same + [f"other {n}" for n in range(10 - same)]
    assert accuracy("Red.", people) == pytest.approx(expected) == pytest.approx(left_out("red", people))


def test_the_peoples_answers_lose_punctuation_only_where_they_differ() -> None:
    """And are neither put in lower case nor is a number word replaced: so the official evaluation."""
    assert without_punctuation("t-shirt") == "t shirt"
    assert accuracy("t-shirt", ["t-shirt"] * 10) == 0.0
    assert accuracy("t-shirt", ["t-shirt"] * 9 + ["shirt"]) == 1.0
    assert accuracy("two", ["two"] * 10) == 0.0
    assert accuracy("two", ["2"] * 10) == 1.0


def test_accuracies_by_type_of_answer() -> None:
    """Percent of all questions, and of those of each type; a question without one counts among all."""
    people = [["yes"] * 10, ["no"] * 10, ["3"] * 2 + ["4"] * 8, ["cat"] * 10, ["dog"] * 10]
    types = ["yes/no", "yes/no", "number", "other", ""]
    values = accuracies(["yes", "yes", "three", "cat", "bird"], people, types)
    assert list(values) == ["accuracy", "accuracy_yes_no", "accuracy_number", "accuracy_other"]
    assert values == pytest.approx(
        {"accuracy": 52.0, "accuracy_yes_no": 50.0, "accuracy_number": 60.0, "accuracy_other": 100.0}
    )
    assert most_frequent(people) == "cat"
