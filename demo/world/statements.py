"""Statements about two pictures, each with four pairs of pictures: it is true of two of them and false of two.

Some are about one of the two, and what the other shows is as frequent under `True` as under `False`. Some are settled
by either picture in half of their pairs. Some compare the two: of one alone, what it shows says nothing. Of the last
kind alone, as of a parity, nothing is learned in minutes: no part of the way to it lowers the loss.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from base.errors import UserError
from demo.world.captions import with_article
from demo.world.draws import Draws
from demo.world.scene import COLOURS, SHAPES, Noun, Scene, that_fit
from demo.world.scenes import World

MAX_TRIES = 200
MAX_SEARCHED = 400
"""Scenes among which those for one sentence are looked for."""
PAIRS_EACH = 4
SCENES_EACH = 6
"""Of one value, in the four pairs of one sentence, at most."""
PAIRS = {
    "left": (("a", "b", True), ("a", "a", True), ("b", "b", False), ("b", "a", False)),
    "right": (("b", "a", True), ("a", "a", True), ("b", "b", False), ("a", "b", False)),
    "both": (("a", "a", True), ("a", "a", True), ("a", "b", False), ("b", "a", False)),
    "at least one": (("a", "b", True), ("b", "a", True), ("b", "b", False), ("b", "b", False)),
    "equal": (("a", "a", True), ("b", "b", True), ("a", "b", False), ("b", "a", False)),
    "different": (("a", "b", True), ("b", "a", True), ("a", "a", False), ("b", "b", False)),
}
"""Kind of statement -> the values of the two pictures in each of its pairs, and whether it is true of that pair. Where
a value is whether a picture contains something, `a` is that it does."""


@dataclass(frozen=True)
class Statement:
    """A sentence and one pair of pictures."""

    text: str
    first: Scene
    second: Scene
    is_true: bool


@dataclass(frozen=True)
class _Family:
    """A sentence and what decides it: a value of each picture, and whether it is true when both values are one."""

    text: str
    value: Callable[[Scene], Hashable]
    """None: the sentence is not said of pairs with this picture."""
    pairs: str
    """Which of PAIRS."""


def statements(world: World, split: str) -> list[Statement]:
    """As many as the split has scenes, to the next multiple of four.

    Raises: UserError when the split has too few scenes to choose from.
    """
    scenes, found = world.scenes[split], []
    for number in range((len(scenes) + PAIRS_EACH - 1) // PAIRS_EACH):
        found += _four(world, split, Draws(world.settings.seed, "statements", split, number))
    return found


def _four(world: World, split: str, draws: Draws) -> list[Statement]:
    """One sentence: two pairs whose pictures have equal values, one pair of each value, and two pairs that differ."""
    scenes = world.scenes[split]
    for _ in range(MAX_TRIES):
        family, start = _family(world, split, draws), draws.below(len(scenes))
        by_value: dict[Hashable, list[Scene]] = defaultdict(list)
        for scene in (scenes[start:] + scenes[:start])[:MAX_SEARCHED]:
            value = family.value(scene)
            if value is not None:
                by_value[value].append(scene)
        enough = {value: group for value, group in by_value.items() if len(group) >= SCENES_EACH}
        if len(enough) < 2:
            continue
        values = [True, False] if set(enough) == {True, False} else draws.sample(list(enough), 2)
        left = {name: draws.sample(enough[value], SCENES_EACH) for name, value in zip("ab", values, strict=True)}
        pairs = [(left[x].pop(), left[y].pop(), is_true) for x, y, is_true in PAIRS[family.pairs]]
        return [Statement(family.text, x, y, is_true) for x, y, is_true in draws.shuffled(pairs)]
    raise UserError(f"no statement about two of {len(scenes)} scenes of {split}", "ask for more scenes")


def _family(world: World, split: str, draws: Draws) -> _Family:
    """Two of five are of one picture, one of five of either, two of five compare."""
    noun, other = _noun(world, split, draws), _noun(world, split, draws)
    contains = f"contains {with_article(noun)}"

    def shown(scene: Scene) -> bool:
        return bool(that_fit(scene, noun))

    match draws.below(10):
        case 0 | 1:
            return _Family(f"the left image {contains}", shown, "left")
        case 2 | 3:
            return _Family(f"the right image {contains}", shown, "right")
        case 4:
            return _Family(f"both images contain {with_article(noun)}", shown, "both")
        case 5:
            return _Family(f"at least one image {contains}", shown, "at least one")
        case 6:
            return _Family(f"exactly one image {contains}", shown, "different")
        case 7:
            return _Family(f"{with_article(noun)} is in both images or in neither", shown, "equal")
        case 8:
            text = f"one image {contains} and the other contains {with_article(other)}"
            return _Family(text, lambda s: _only_one(s, noun, other), "different")
        case _:
            return _same(draws)


def _same(draws: Draws) -> _Family:
    """The same colour or the same shape."""
    if draws.chance(0.5):
        of_shape = Noun(shape=draws.choice(SHAPES))
        text = f"the {of_shape} has the same color in both images"
        return _Family(text, lambda s: _only(s, of_shape, "colour"), "equal")
    of_colour = Noun(colour=draws.choice(tuple(COLOURS)))
    text = f"the {of_colour} has the same shape in both images"
    return _Family(text, lambda s: _only(s, of_colour, "shape"), "equal")


def _noun(world: World, split: str, draws: Draws) -> Noun:
    """A colour, a shape, or both, of a thing in the split."""
    thing = draws.choice(draws.choice(world.scenes[split]).things)
    return draws.choice((Noun(colour=thing.colour), Noun(shape=thing.shape), Noun(thing.colour, thing.shape)))


def _only_one(scene: Scene, noun: Noun, other: Noun) -> bool | None:
    """Whether it is the first noun that fits a thing of the scene; None when both do or neither."""
    fits, other_fits = bool(that_fit(scene, noun)), bool(that_fit(scene, other))
    return fits if fits != other_fits else None


def _only(scene: Scene, noun: Noun, attribute: str) -> str | None:
    """Colour or shape of the one thing that the noun fits."""
    found = that_fit(scene, noun)
    return str(getattr(found[0], attribute)) if len(found) == 1 else None
