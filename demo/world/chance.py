"""What can be scored in each task without understanding: by majority, by the text alone, by a random place."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

Row = dict[str, Any]
Label = Callable[[Row], Hashable]


def majority(rows: Sequence[Row], label: Label) -> float:
    """Percent that the most frequent label gives."""
    return 100 * max(Counter(map(label, rows)).values()) / len(rows)


def blind(train: Sequence[Row], test: Sequence[Row], label: Label, seen: Label) -> float:
    """Percent that the most frequent label of the training rows with the same `seen` gives; else the overall one."""
    overall = Counter(map(label, train)).most_common(1)[0][0]
    by_seen: dict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for row in train:
        by_seen[seen(row)][label(row)] += 1
    best = {key: labels.most_common(1)[0][0] for key, labels in by_seen.items()}
    return 100 * sum(best.get(seen(row), overall) == label(row) for row in test) / len(test)


def random_place(rows: Sequence[Row], side: int) -> float:
    """Mean percent of the picture that the box of what is meant covers."""
    return 100 * sum(row["box"][2] * row["box"][3] for row in rows) / (len(rows) * side * side)


def random_thing(rows: Sequence[Row], boxes: dict[str, Sequence[Any]]) -> float:
    """Percent that one of the picture's things, drawn at random, gives."""
    return 100 * sum(1 / len(boxes[row["image_id"]]) for row in rows) / len(rows)


def answer_of(row: Row) -> str:
    """Of a question, all of whose answers agree."""
    return str(row["answer"][0])


def label_of(row: Row) -> str:
    """Of a statement, a hypothesis or a pair."""
    return str(row["label"])
