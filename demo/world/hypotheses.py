"""Hypotheses about a scene that does not show everything: entailed, contradicted, or open (SNLI-VE's `neutral`).

A picture with a white thing, or with a question mark in place of a shape, may show several scenes, one for each colour
or shape. A hypothesis is entailed if it is true of all of them, contradicted if it is false of all, open if it depends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from demo.world.captions import with_article
from demo.world.draws import Draws
from demo.world.scene import COLOURS, SHAPES, Noun, Scene, that_fit
from demo.world.scenes import World

LABELS = ("entailment", "neutral", "contradiction")
KINDS = ("is", "relation", "exists")
MAX_TRIES = 100


@dataclass(frozen=True)
class Hypothesis:
    """A sentence and what the picture makes of it."""

    text: str
    label: str


@dataclass(frozen=True)
class _Claim:
    """That the one thing which a noun fits (in a relation to the one of another noun) is as a further noun has it."""

    text: str
    claimed: Noun
    subject: Noun | None = None
    """None: there is at least one such thing."""
    relation: str | None = None
    other: Noun | None = None

    def holds(self, scene: Scene) -> bool | None:
        """None when the sentence speaks of "the" thing and there is not one."""
        if self.subject is None:
            return bool(that_fit(scene, self.claimed))
        found = that_fit(scene, self.subject, self.relation, self.other)
        if len(found) != 1 or (self.other is not None and len(that_fit(scene, self.other)) != 1):
            return None
        return self.claimed.fits(found[0])


def hypotheses(world: World, split: str, scene: Scene) -> list[Hypothesis]:
    """One for each label, in random order, so that the picture alone says nothing about the label."""
    draws = Draws(world.settings.seed, "hypotheses", scene.name)
    versions = scene.complete()
    return [_with_label(world, split, scene, versions, label, draws) for label in draws.shuffled(LABELS)]


def _with_label(
    world: World, split: str, scene: Scene, versions: Sequence[Scene], label: str, draws: Draws
) -> Hypothesis:
    """The kind is drawn before the rest, so that all labels have all kinds equally often where the scene allows it."""
    for kind in (*draws.shuffled(KINDS), "exists", "exists"):  # which every scene has, of every label
        for _ in range(MAX_TRIES):
            claim = _claim(world, split, scene, kind, draws)
            if claim is not None and _label(claim, versions) == label:
                return Hypothesis(claim.text, label)
    raise AssertionError(f"no hypothesis with label {label} about {scene}")


def _label(claim: _Claim, versions: Sequence[Scene]) -> str | None:
    """None when the sentence fits no label, because in one of the scenes there is no single thing it speaks of."""
    results = set()
    for scene in versions:
        result = claim.holds(scene)
        if result is None:
            return None
        results.add(result)
    return "neutral" if len(results) == 2 else "entailment" if True in results else "contradiction"


def _claim(world: World, split: str, scene: Scene, kind: str, draws: Draws) -> _Claim | None:
    """A sentence of a kind about a thing of the scene; half of the time with its own colour or shape, if it has one."""
    veiled = next(thing for thing in scene.things if thing.pair is None)
    thing = draws.choice(scene.things)
    asks_colour = veiled.colour is None  # what one thing does not show is asked of all things alike
    values: Sequence[str] = tuple(COLOURS) if asks_colour else SHAPES
    own = thing.colour if asks_colour else thing.shape
    value = own if own and draws.chance(0.5) else draws.choice(values)
    claimed = Noun(colour=value) if asks_colour else Noun(shape=value)
    other_part = thing.shape if asks_colour else thing.colour
    colour, shape = (value, str(other_part)) if asks_colour else (str(other_part), value)
    if not world.may_name(split, colour, shape):
        return None
    predicate = value if asks_colour else with_article(Noun(shape=value))
    if kind == "exists":
        noun = Noun(colour, shape)
        return _Claim(f"there is {with_article(noun)}", noun)
    if kind == "is":
        subject = Noun(shape=shape) if asks_colour else Noun(colour=colour)
        return _Claim(f"the {subject} is {predicate}", claimed, subject)
    other, relation = draws.choice(scene.things), draws.choice(world.settings.relations)
    if other is thing:
        return None
    name = Noun(shape=other.shape) if asks_colour else Noun(colour=other.colour)
    return _Claim(f"the thing {relation} the {name} is {predicate}", claimed, Noun(), relation, name)
