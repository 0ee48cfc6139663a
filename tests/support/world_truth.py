"""What a generated world's sentences claim, read from their words, and checked against boxes by trying everything.

Written without a look at the generator: places and relations come from the boxes alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import permutations, product
from typing import Any

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "black")
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
SIZES = ("small", "large")
RELATION = "to the left of|on the left of|left of|to the right of|on the right of|right of|above|over|below|under"

Thing = dict[str, Any]
Facts = list[Thing]


def kind_of(word: str) -> str:
    """color, shape or size."""
    return "color" if word in COLOURS else "shape" if word in SHAPES else "size" if word in SIZES else ""


def singular(word: str) -> str:
    return next((name for name in (*SHAPES, "thing") if word in (f"{name}s", f"{name}es")), word)


def wanted(noun: str) -> dict[str, str]:
    """`small red star` -> size, color, shape; `thing` asks for nothing."""
    words = [singular(word) for word in noun.split()]
    assert all(kind_of(word) or word == "thing" for word in words), noun
    return {kind_of(word): word for word in words if word != "thing"}


def fits(thing: Thing, noun: str) -> bool:
    return all(thing[key] == value for key, value in wanted(noun).items())


def related(a: Thing, relation: str, b: Thing) -> bool:
    """The whole box of one beyond the whole box of the other."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a["box"], b["box"]
    if "left" in relation:
        return bool(ax + aw <= bx)
    if "right" in relation:
        return bool(bx + bw <= ax)
    return bool(ay + ah <= by) if relation in ("above", "over") else bool(by + bh <= ay)


def place(thing: Thing, side: int) -> str:
    """By the box's middle, in thirds of the picture."""
    x, y, w, h = thing["box"]
    row = ("top", "", "bottom")[int(3 * (y + h / 2) / side)]
    column = ("left", "", "right")[int(3 * (x + w / 2) / side)]
    return f"{row} {column}".strip() or "center"


def described(facts: Facts, text: str) -> Facts:
    """The things that `star`, `small red thing` or `thing left of the blue ring` describes."""
    if found := re.fullmatch(rf"(.+?) ({RELATION}) the (.+)", text):
        others = [thing for thing in facts if fits(thing, found[3])]
        assert len(others) == 1, f"{text}: {len(others)} things are the {found[3]}"
        near = [thing for thing in facts if thing is not others[0] and related(thing, found[2], others[0])]
        return [thing for thing in near if fits(thing, found[1])]
    return [thing for thing in facts if fits(thing, text)]


def the(facts: Facts, text: str) -> Thing:
    """The one thing that is meant."""
    found = described(facts, text)
    assert len(found) == 1, f"{len(found)} things are the {text}"
    return found[0]


def caption_is_true(facts: Facts, caption: str, side: int) -> bool:
    """Whether different things can be found for all that the caption names."""
    text = re.sub(r"^(there is|a picture of) ", "", caption)
    if found := re.fullmatch(rf"an? (.+?) ({RELATION}) an? (.+)", text):
        return any(
            fits(a, found[1]) and fits(b, found[3]) and related(a, found[2], b) for a, b in permutations(facts, 2)
        )
    named = [re.fullmatch(r"an? (.+?)(?: (?:in|on|at) the (.+))?", part) for part in text.split(" and ")]
    return any(
        all(n and fits(t, n[1]) and n[2] in (None, place(t, side)) for t, n in zip(some, named, strict=True))
        for some in permutations(facts, len(named))
    )


def answer(facts: Facts, question: str, side: int) -> str:
    """The one right answer."""
    if found := re.fullmatch(r"what (color|shape) is the (.+)\?", question):
        return str(the(facts, found[2])[found[1]])
    if found := re.fullmatch(r"where is the (.+)\?", question):
        return place(the(facts, found[1]), side)
    if found := re.fullmatch(r"how many (.+) are there\?", question):
        return str(len(described(facts, found[1])))
    if found := re.fullmatch(r"is there an? (.+)\?", question):
        return "yes" if described(facts, found[1]) else "no"
    if found := re.fullmatch(rf"is the (.+?) ({RELATION}) the (.+)\?", question):
        return "yes" if related(the(facts, found[1]), found[2], the(facts, found[3])) else "no"
    found = re.fullmatch(r"is the (.+?)(?: an?)? (\w+)\?", question)
    assert found, question
    return "yes" if fits(the(facts, found[1]), found[2]) else "no"


def possible(facts: Facts) -> Iterator[Facts]:
    """Every scene that a picture may show which leaves something out."""
    choices = [
        [
            {**thing, "color": color, "shape": shape}
            for color in ([thing["color"]] if thing["color"] else COLOURS)
            for shape in ([thing["shape"]] if thing["shape"] else SHAPES)
        ]
        for thing in facts
    ]
    for things in product(*choices):
        yield list(things)


def entailment(facts: Facts, hypothesis: str) -> str:
    """By the truth in every possible scene."""
    truths = {_hypothesis_is_true(scene, hypothesis) for scene in possible(facts)}
    return "neutral" if len(truths) == 2 else "entailment" if True in truths else "contradiction"


def _hypothesis_is_true(facts: Facts, hypothesis: str) -> bool:
    if found := re.fullmatch(r"there is an? (.+)", hypothesis):
        return bool(described(facts, found[1]))
    found = re.fullmatch(r"the (.+) is (?:an? )?(\w+)", hypothesis)
    assert found, hypothesis
    return fits(the(facts, found[1]), found[2])


def value_for(facts: Facts, sentence: str) -> Any:
    """What of one picture a statement about two depends on."""
    if found := re.fullmatch(r"one image contains an? (.+) and the other contains an? (.+)", sentence):
        first, second = bool(described(facts, found[1])), bool(described(facts, found[2]))
        assert first != second, f"{sentence}: both or neither"
        return first
    if found := re.fullmatch(r"the (.+) has the same (color|shape) in both images", sentence):
        return the(facts, found[1])[found[2]]
    found = re.fullmatch(r"an? (.+) is in both images or in neither", sentence) or re.fullmatch(
        r"(?:exactly one image|at least one image|the left image|the right image|both images) contains? an? (.+)",
        sentence,
    )
    assert found, sentence
    return bool(described(facts, found[1]))


def statement_is_true(first: Facts, second: Facts, sentence: str) -> bool:
    """Two pictures and one sentence."""
    left, right = value_for(first, sentence), value_for(second, sentence)
    for words, truth in (
        ("the left image", left),
        ("the right image", right),
        ("both images contain", left and right),
        ("at least one", left or right),
        ("exactly one", left != right),
        ("one image contains", left != right),
    ):
        if sentence.startswith(words):
            return bool(truth)
    assert "same" in sentence or "neither" in sentence, sentence
    return bool(left == right)


def pairs_named(texts: Sequence[str]) -> set[tuple[str, str]]:
    """Pairs of colour and shape that texts put together: `red star`, `is the star red`, `the red thing is a star`."""
    named = set()
    for text in texts:
        words = [singular(word) for word in re.findall(r"\w+", text)]
        named |= {(a, b) for a, b in zip(words, words[1:], strict=False) if a in COLOURS and b in SHAPES}
        colours, shapes = [w for w in words if w in COLOURS], [w for w in words if w in SHAPES]
        if not re.search(RELATION, text) and len(colours) == len(shapes) == 1:
            named.add((colours[0], shapes[0]))
    return named
