"""The official annotation lists of VQA and Visual Genome's questions, entry by entry; and the list of candidates."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from albef.errors import DataError
from pipeline.data.annotations.entries import Entry, Format, text_of
from samples.captions import clean_question
from samples.json_text import parse_json
from samples.plain_file import read_plain
from samples.quote import quote

GENOME_WEIGHT = 0.5
"""Weight of an answer of Visual Genome, whose questions have one."""
ANSWER_TYPES = ("yes/no", "number", "other")
LEAST_PEOPLE = 4
"""With fewer answers to a question, none of them could score 1."""
MAX_LIST_BYTES = 64 << 20


def training_entry(value: dict[str, Any]) -> Entry:
    """One entry to train on: the image, the question, and its distinct answers with their weights.

    An answer of VQA weighs the share of people that gave it, in the order of the first of each.

    Raises: ValueError with what is wrong with it.
    """
    name, question, source = (text_of(value, key) for key in ("image", "question", "dataset"))
    if source == "vg":
        answers, weights = [text_of(value, "answer")], [GENOME_WEIGHT]
    elif source == "vqa":
        people = Counter(_people(value))
        answers, weights = list(people), [count / people.total() for count in people.values()]
    else:
        raise ValueError(f"is of the dataset {quote(source)}, which is neither vqa nor vg")
    key = str(_number(value)) if "question_id" in value else ""
    return Entry(images=(name,), row={"question": question, "answers": answers, "weights": weights}, key=key)


def question_entry(value: dict[str, Any]) -> Entry:
    """One question to answer: the image, its number, the people's answers if they are known, and their type.

    Raises: ValueError with what is wrong with it.
    """
    name, question = (text_of(value, key) for key in ("image", "question"))
    number = _number(value)
    people = _people(value) if "answer" in value else []
    if 0 < len(people) < LEAST_PEOPLE:
        raise ValueError(f"has {len(people)} answers, and the accuracy needs at least {LEAST_PEOPLE}; VQA has ten")
    kind = text_of(value, "answer_type") if "answer_type" in value else ""
    if kind and kind not in ANSWER_TYPES:
        raise ValueError(f"has the answer_type {quote(kind)}, which is none of {', '.join(ANSWER_TYPES)}")
    row = {"question_id": number, "question": question, "people": people, "answer_type": kind}
    return Entry(images=(name,), row=row, key=str(number))


def scored_entry(value: dict[str, Any]) -> Entry:
    """As `question_entry`, with the people's answers. Raises: ValueError."""
    if "answer" not in value:
        raise ValueError("has no answer")
    return question_entry(value)


TRAINING = Format(
    layout='{"question_id": number, "question": text, "image": name, "answer": list of texts, "dataset": "vqa"}, or '
    'with one text as "answer" and the "dataset" "vg"',
    check=training_entry,
)
QUESTIONS = Format(
    layout='{"question_id": number, "question": text, "image": name}, and for a score "answer": list of ten texts, '
    '"answer_type": "yes/no", "number" or "other"',
    check=question_entry,
)
SCORED = Format(layout=QUESTIONS.layout.replace("and for a score ", ""), check=scored_entry)


def _people(value: dict[str, Any]) -> list[str]:
    answers = value.get("answer")
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise ValueError(f"has {quote(repr(answers), 40)} as answer, which is no list of texts")
    return answers


def _number(value: dict[str, Any]) -> int:
    number = value.get("question_id")
    if type(number) is not int:
        raise ValueError(f"has {quote(repr(number), 40)} as question_id, which is no whole number")
    return number


def question_of(row: dict[str, Any], max_words: int) -> str:
    """The question, cleaned as the model was trained."""
    return clean_question(row["question"], max_words=max_words)


@dataclass(frozen=True)
class Candidates:
    """The answers that are ranked, in the order of their list."""

    path: str
    answers: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits that stay the same while the answers do, in any order."""
        return sha256("\n".join(sorted(self.answers)).encode()).hexdigest()[:16]


def read_candidates(path: str | Path) -> Candidates:
    """The list of candidate answers. Raises: DataError when it is no JSON list of distinct texts."""
    hint = "a JSON list of distinct texts is expected, such as the authors' answer_list.json"
    try:
        answers = parse_json(read_plain(Path(path), MAX_LIST_BYTES))
    except OSError as error:
        raise DataError(f"answer list {quote(path)}: {error.strerror}", "check its path") from error
    except ValueError as error:
        raise DataError(f"answer list {quote(path)} cannot be read: {quote(error)}", hint) from error
    if not isinstance(answers, list) or not answers or not all(isinstance(answer, str) for answer in answers):
        raise DataError(f"answer list {quote(path)} is no list of texts", hint)
    answer, count = Counter(answers).most_common(1)[0]
    if count > 1:
        raise DataError(f"answer list {quote(path)} has {quote(answer)} {count} times", hint)
    return Candidates(str(path), tuple(answers))
