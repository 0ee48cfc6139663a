"""Statements about two pictures, each with four pairs of pictures: it is true of two of them and false of two.

All compare the two pictures: of one alone, what it shows is as frequent under `True` as under `False`. "Both images
contain a star" cannot be balanced in this way, because one picture without a star settles it.
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
"""Scenes among which the eight for one sentence are looked for."""
PAIRS_EACH = 4


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
    true_of_equal: bool


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
        enough = [group for group in by_value.values() if len(group) >= PAIRS_EACH]
        if len(enough) < 2:
            continue
        (a1, a2, a3, a4), (b1, b2, b3, b4) = (draws.sample(group, PAIRS_EACH) for group in draws.sample(enough, 2))
        pairs = [(a1, a2, True), (b1, b2, True), (a3, b3, False), (b4, a4, False)]
        return [Statement(family.text, x, y, equal == family.true_of_equal) for x, y, equal in draws.shuffled(pairs)]
    raise UserError(f"no statement about two of {len(scenes)} scenes of {split}", "ask for more scenes")


def _family(world: World, split: str, draws: Draws) -> _Family:
    """Exactly one contains, both or neither, one this and the other that, the same colour, the same shape."""
    noun, other = _noun(world, split, draws), _noun(world, split, draws)
    match draws.below(5):
        case 0:
            return _Family(f"exactly one image contains {with_article(noun)}", lambda s: bool(that_fit(s, noun)), False)
        case 1:
            text = f"{with_article(noun)} is in both images or in neither"
            return _Family(text, lambda s: bool(that_fit(s, noun)), True)
        case 2:
            text = f"one image contains {with_article(noun)} and the other contains {with_article(other)}"
            return _Family(text, lambda s: _only_one(s, noun, other), False)
        case 3:
            of_shape = Noun(shape=draws.choice(SHAPES))
            text = f"the {of_shape} has the same color in both images"
            return _Family(text, lambda s: _only(s, of_shape, "colour"), True)
        case _:
            of_colour = Noun(colour=draws.choice(tuple(COLOURS)))
            text = f"the {of_colour} has the same shape in both images"
            return _Family(text, lambda s: _only(s, of_colour, "shape"), True)


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
