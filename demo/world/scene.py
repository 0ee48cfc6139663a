"""Things in a 3 x 3 layout, and everything that is true of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations

COLOURS = {
    "red": (221, 52, 48),
    "orange": (248, 142, 28),
    "yellow": (250, 214, 52),
    "green": (58, 166, 78),
    "blue": (46, 110, 222),
    "purple": (132, 66, 182),
    "pink": (246, 146, 196),
    "black": (44, 44, 50),
}
"""Word -> RGB."""
SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
SIZES = ("small", "large")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
"""Names of the nine cells, row by row."""
RELATIONS = ("left of", "right of", "above", "below")
NUM_COLUMNS = 3

Pair = tuple[str, str]
"""A colour and a shape."""
RGB = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing of a scene. A colour or shape that the picture does not show is None, and has no true value."""

    colour: str | None
    shape: str | None
    size: str
    cell: int
    """0 to 8, row by row: `PLACES[cell]` is its name."""
    x: int
    y: int
    """Left and top of the square it is drawn in, pixels."""
    diameter: int
    """Side of that square, pixels."""
    rgb: RGB
    """Its shade of its colour."""

    @property
    def place(self) -> str:
        return PLACES[self.cell]

    @property
    def pair(self) -> Pair | None:
        """Colour and shape, where both are shown."""
        return (self.colour, self.shape) if self.colour and self.shape else None


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One picture's content."""

    name: str
    """SPLIT/NUMBER: the picture's name without its suffix."""
    things: tuple[Thing, ...]

    @property
    def image(self) -> str:
        """The picture's file name in the archive."""
        return f"{self.name}.png"

    @property
    def pairs(self) -> set[Pair]:
        """Colour and shape of all things that show both."""
        return {thing.pair for thing in self.things if thing.pair}

    def canonical(self) -> tuple[tuple[str, ...], ...]:
        """What the scene shows, without order, shades and the last pixels of position: equal for equal scenes."""
        return tuple(sorted((str(t.colour), str(t.shape), t.size, t.place) for t in self.things))

    def complete(self) -> list[Scene]:
        """Every scene that this picture may show: one for each value of what it does not show."""
        scenes: list[tuple[Thing, ...]] = [()]
        for thing in self.things:
            shapes = SHAPES if thing.shape is None else (thing.shape,)
            colours = tuple(COLOURS) if thing.colour is None else (thing.colour,)
            versions = [replace(thing, colour=colour, shape=shape) for colour in colours for shape in shapes]
            scenes = [(*before, version) for before in scenes for version in versions]
        return [replace(self, things=things) for things in scenes]


@dataclass(frozen=True)
class Noun:
    """A description of one thing: what it leaves out may be anything."""

    colour: str | None = None
    shape: str | None = None
    size: str | None = None
    place: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether the thing is as described."""
        return (
            self.colour in (None, thing.colour)
            and self.shape in (None, thing.shape)
            and self.size in (None, thing.size)
            and self.place in (None, thing.place)
        )

    def __str__(self) -> str:
        """`small red star`, `red thing`; the place is a matter of the sentence."""
        return " ".join(word for word in (self.size, self.colour, self.shape or "thing") if word)


def related(first: Thing, relation: str, second: Thing) -> bool:
    """Whether `first` is, say, left of `second`: in a column further left. The same holds for their boxes."""
    row, column = divmod(first.cell, NUM_COLUMNS)
    other_row, other_column = divmod(second.cell, NUM_COLUMNS)
    return {
        "left of": column < other_column,
        "right of": column > other_column,
        "above": row < other_row,
        "below": row > other_row,
    }[relation]


def that_fit(scene: Scene, noun: Noun, relation: str | None = None, other: Noun | None = None) -> list[Thing]:
    """The things that a noun fits, of these the ones that stand in a relation to a thing that the other noun fits."""
    found = [thing for thing in scene.things if noun.fits(thing)]
    if relation is None or other is None:
        return found
    others = [thing for thing in scene.things if other.fits(thing)]
    return [thing for thing in found if any(related(thing, relation, one) for one in others if one is not thing)]


def holds(scene: Scene, nouns: tuple[Noun, ...], relation: str | None = None) -> bool:
    """Whether different things of the scene fit the nouns, the first in the relation to the second if one is given."""
    return any(
        all(noun.fits(thing) for noun, thing in zip(nouns, things, strict=True))
        and (relation is None or related(things[0], relation, things[1]))
        for things in permutations(scene.things, len(nouns))
    )


def names_of(scene: Scene, thing: Thing) -> list[Noun]:
    """The nouns of one to three words that fit this thing and no other of the scene."""
    return [noun for noun in _nouns(thing) if that_fit(scene, noun) == [thing]]


def _nouns(thing: Thing) -> Iterator[Noun]:
    for size in (None, thing.size):
        if thing.shape:
            yield Noun(shape=thing.shape, size=size)
        if thing.colour:
            yield Noun(colour=thing.colour, size=size)
        if thing.colour and thing.shape:
            yield Noun(colour=thing.colour, shape=thing.shape, size=size)
