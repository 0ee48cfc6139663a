"""Captions of scenes in a small grammar, noise among them, and pairs of picture and caption that match or do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

from demo.world.draws import Draws
from demo.world.scene import Noun, Pair, Scene, Thing, holds, related
from demo.world.scenes import World

NUM_CAPTIONS = 4
"""Of each scene."""
MAX_TRIES = 40
RELATION_WORDS = {
    "left of": ("left of", "to the left of", "on the left of"),
    "right of": ("right of", "to the right of", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
LEADS = ("", "", "", "there is ", "a picture of ")
MAX_LISTED = 3
"""A caption names at most this many things."""


@dataclass(frozen=True)
class Caption:
    """A sentence and what it claims."""

    text: str
    nouns: tuple[Noun, ...]
    """Different things of the scene, with their places where the sentence names them."""
    relation: str | None = None
    """Of the first to the second."""

    def is_true_of(self, scene: Scene) -> bool:
        """Whether the scene is as claimed."""
        return holds(scene, self.nouns, self.relation)


class Captioner:
    """Writes the captions of one split.

    Args:
        unambiguous: write only captions that are true of no other scene of the split, as retrieval needs.
    """

    def __init__(self, world: World, split: str, *, unambiguous: bool) -> None:
        self._settings, self._unambiguous = world.settings, unambiguous
        self._showing: dict[Pair, set[str]] = defaultdict(set)
        self._scenes = {scene.name: scene for scene in world.scenes[split]}
        for scene in world.scenes[split]:
            for pair in scene.pairs:
                self._showing[pair].add(scene.name)

    def captions(self, scene: Scene) -> list[Caption]:
        """NUM_CAPTIONS different ones."""
        draws = Draws(self._settings.seed, "captions", scene.name)
        found: dict[str, Caption] = {}
        for _ in range(MAX_TRIES):
            caption = _caption(scene, self._settings.relations, draws)
            if not self._unambiguous or self._scenes_of(caption) == [scene.name]:
                found.setdefault(caption.text, caption)
            if len(found) == NUM_CAPTIONS:
                return list(found.values())
        for things in permutations(scene.things):  # everything there is to say is true of no other scene
            caption = _full_caption(things)
            found.setdefault(caption.text, caption)
            if len(found) == NUM_CAPTIONS:
                break
        return list(found.values())

    def _scenes_of(self, caption: Caption) -> list[str]:
        """The scenes of the split that a caption is true of."""
        pairs = [(str(noun.colour), str(noun.shape)) for noun in caption.nouns]
        with_all = set.intersection(*(self._showing[pair] for pair in pairs))
        return [name for name in with_all if caption.is_true_of(self._scenes[name])]


def _caption(scene: Scene, relations: Sequence[str], draws: Draws) -> Caption:
    """A relation of two things, their places, or a list."""
    things = draws.sample(scene.things, min(len(scene.things), MAX_LISTED))
    lead = draws.choice(LEADS)
    true = [relation for relation in relations if related(things[0], relation, things[1])]
    kind = draws.choice(("relation", "relation", "relation", "places", "list"))
    if kind == "relation" and true:
        first, second = (_noun(thing, draws) for thing in things[:2])
        relation = draws.choice(true)
        text = f"{lead}{with_article(first)} {draws.choice(RELATION_WORDS[relation])} {with_article(second)}"
        return Caption(text, (first, second), relation)
    nouns = [_noun(thing, draws) for thing in things]
    if kind == "places":
        nouns = [Noun(n.colour, n.shape, n.size, thing.place) for n, thing in zip(nouns, things, strict=True)]
    return Caption(lead + _listed(nouns), tuple(nouns))


def _full_caption(things: Sequence[Thing]) -> Caption:
    nouns = [Noun(thing.colour, thing.shape, thing.size, thing.place) for thing in things]
    return Caption(_listed(nouns), tuple(nouns))


def _noun(thing: Thing, draws: Draws) -> Noun:
    return Noun(thing.colour, thing.shape, thing.size if draws.chance(0.3) else None)


def _listed(nouns: Sequence[Noun]) -> str:
    return " and ".join(with_article(noun) + (f" {at(noun.place)}" if noun.place else "") for noun in nouns)


def with_article(noun: Noun) -> str:
    """`an orange ring`, `a small orange ring`."""
    return f"{'an' if str(noun)[0] in 'aeiou' else 'a'} {noun}"


def at(place: str) -> str:
    """`in the center`, `on the left`, `at the top left`."""
    return f"{ {'center': 'in', 'left': 'on', 'right': 'on'}.get(place, 'at') } the {place}"


def exchanged(world: World) -> dict[str, str]:
    """Which training scene gets the captions of which other, for the world's share of noise: a ring of scenes."""
    names = [scene.name for scene in world.scenes["train"]]
    ring = Draws(world.settings.seed, "noise").sample(names, round(world.settings.noise * len(names)))
    return dict(zip(ring, ring[1:] + ring[:1], strict=True))


def matching_pairs(world: World, split: str, captions: dict[str, list[Caption]]) -> list[tuple[Scene, Caption, bool]]:
    """A caption of each scene twice: with its own picture, and with one that it is false of.

    Every picture is in one pair that matches and in one that does not, where possible. Half of the wrong pictures show
    a thing that the caption names.
    """
    scenes, draws = world.scenes[split], Draws(world.settings.seed, "matching", split)
    chosen = [draws.choice(captions[scene.name]) for scene in scenes]
    left, rows = draws.shuffled(scenes), []
    for index, (scene, caption) in enumerate(zip(scenes, chosen, strict=True)):
        wrong = [other for other in left if not caption.is_true_of(other)] or [
            other for other in scenes if not caption.is_true_of(other)
        ]
        named = {(noun.colour, noun.shape) for noun in caption.nouns}
        alike = [other for other in wrong if named & other.pairs]
        other = draws.choice(alike if index % 2 and alike else wrong)
        if other in left:
            left.remove(other)
        rows += [(scene, caption, True), (other, caption, False)]
    return rows
