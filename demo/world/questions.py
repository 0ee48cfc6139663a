"""Questions about a scene and their answers: colour, shape, number, place, yes or no."""

from __future__ import annotations

from dataclasses import dataclass

from demo.world.draws import Draws
from demo.world.scene import COLOURS, PLACES, SHAPES, SIZES, Noun, Scene, Thing, names_of, related, that_fit
from demo.world.scenes import World

KINDS = ("color", "shape", "count", "place", "yes/no", "yes/no")
"""The questions of each scene, in this order."""
ANSWERS = ("yes", "no", *map(str, range(7)), *COLOURS, *SHAPES, *PLACES)
ANSWER_TYPES = {"yes/no": "yes/no", "count": "number"}
"""As the VQA data set has them; the rest is `other`."""
PLURALS = {shape: f"{shape}es" if shape == "cross" else f"{shape}s" for shape in SHAPES}
MAX_TRIES = 100


@dataclass(frozen=True)
class Question:
    """A question about one picture."""

    text: str
    answer: str
    kind: str
    """One of KINDS."""

    @property
    def answer_type(self) -> str:
        """yes/no, number or other."""
        return ANSWER_TYPES.get(self.kind, "other")


def questions(world: World, split: str, scene: Scene) -> list[Question]:
    """One of each of KINDS that the scene has one of; of the two yes-or-no questions one is answered yes.

    Of two red things of one size in one column, no question asks for the shape if texts only name left and right.
    """
    draws = Draws(world.settings.seed, "questions", scene.name)
    wanted = ["yes", "no"]
    found = [_question(world, split, scene, kind, wanted.pop() if kind == "yes/no" else None, draws) for kind in KINDS]
    return [question for question in found if question is not None]


def _question(world: World, split: str, scene: Scene, kind: str, answer: str | None, draws: Draws) -> Question | None:
    for _ in range(MAX_TRIES):
        if kind == "yes/no":
            question = _yes_or_no(world, split, scene, draws)
        elif kind == "count":
            question = _how_many(scene, draws)
        else:
            question = _what(world, scene, kind, draws)
        if question is not None and answer in (None, question.answer):
            return question
    return None


def _what(world: World, scene: Scene, kind: str, draws: Draws) -> Question | None:
    """Colour, shape or place of one thing, by a name or by its relation to another."""
    thing = draws.choice(scene.things)
    names = names_of(scene, thing)
    if kind == "place":
        return Question(f"where is the {draws.choice(names)}?", thing.place, kind) if names else None
    value = str(thing.colour if kind == "color" else thing.shape)
    if draws.chance(0.5):
        names = [name for name in names if (name.colour if kind == "color" else name.shape) is None]
        return Question(f"what {kind} is the {draws.choice(names)}?", value, kind) if names else None
    by = by_relation(world, scene, thing, draws)
    return Question(f"what {kind} is the thing {by}?", value, kind) if by else None


def by_relation(world: World, scene: Scene, thing: Thing, draws: Draws) -> str | None:
    """`left of the blue ring`: true of this thing and no other of the scene; None when there is no such text."""
    found = [
        (relation, names)
        for other in scene.things
        for relation in world.settings.relations
        if other is not thing and [t for t in scene.things if related(t, relation, other)] == [thing]
        if (names := names_of(scene, other))
    ]
    if not found:
        return None
    relation, names = draws.choice(found)
    return f"{relation} the {draws.choice(names)}"


def _how_many(scene: Scene, draws: Draws) -> Question:
    """Of a colour or of a shape: any number from 0 to 2 that the scene has is equally likely."""
    nouns = [Noun(colour=colour) for colour in COLOURS] + [Noun(shape=shape) for shape in SHAPES]
    numbers = {noun: len(that_fit(scene, noun)) for noun in nouns}
    number = draws.choice(sorted(set(numbers.values())))
    noun = draws.choice([noun for noun, count in numbers.items() if count == number])
    name = PLURALS[noun.shape] if noun.shape else f"{noun}s"
    return Question(f"how many {name} are there?", str(number), "count")


def _yes_or_no(world: World, split: str, scene: Scene, draws: Draws) -> Question | None:
    """Is there one, is it so, is it large, is it left of the other."""
    thing, other = draws.sample(scene.things, 2)
    kind = draws.choice(("exists", "attribute", "size", "relation"))
    names, others = names_of(scene, thing), names_of(scene, other)
    if kind == "relation":
        if not names or not others:
            return None
        relation = draws.choice(world.settings.relations)
        return _closed(
            f"is the {draws.choice(names)} {relation} the {draws.choice(others)}?", related(thing, relation, other)
        )
    if kind == "size":
        names, size = [name for name in names if name.size is None], draws.choice(SIZES)
        return _closed(f"is the {draws.choice(names)} {size}?", thing.size == size) if names else None
    # a wrong colour or shape is the other thing's half of the time: it is in the picture, on something else
    colour, shape = str(thing.colour), str(thing.shape)
    part = draws.choice(("colour", "shape"))
    if draws.chance(0.5):
        if part == "colour":
            colour = draws.choice((str(other.colour), draws.choice(tuple(COLOURS))))
        else:
            shape = draws.choice((str(other.shape), draws.choice(SHAPES)))
    if not world.may_name(split, colour, shape):
        return None
    if kind == "exists":
        noun = Noun(colour, shape)
        return _closed(f"is there {'an' if colour[0] in 'aeiou' else 'a'} {noun}?", bool(that_fit(scene, noun)))
    subject = Noun(shape=shape) if part == "colour" else Noun(colour=colour)
    if that_fit(scene, subject) != [thing]:
        return None
    claimed = colour if part == "colour" else f"a {shape}"
    return _closed(f"is the {subject} {claimed}?", thing.pair == (colour, shape))


def _closed(text: str, is_so: bool) -> Question:
    return Question(text, "yes" if is_so else "no", "yes/no")
