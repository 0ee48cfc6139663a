"""The scenes of a world: drawn from its seed, in splits, no scene twice, some pairs of colour and shape held out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from base.errors import UserError
from demo.world.draws import Draws
from demo.world.scene import COLOURS, RELATIONS, RGB, SHAPES, SIZES, Pair, Scene, Thing

SPLITS = ("train", "val", "test", "test_new")
"""`test_new` has a held-out pair in every scene; the others have none."""
MAX_THINGS = 6
DIAMETERS = {"small": (22, 24), "large": (30, 32)}
"""Of a thing, percent of the picture's side."""
MAX_TRIES = 1_000


@dataclass(frozen=True, kw_only=True)
class WorldSettings:
    """What decides a world, to the last bit."""

    seed: int = 0
    scenes: int = 8_000
    """Training scenes. Held-out scenes are drawn first, so that they are the same for any number of these."""
    held_out: int = 500
    """Scenes of `val`, of `test` and of `test_new`."""
    side: int = 64
    """Of a picture, pixels."""
    things: tuple[int, int] = (2, 2)
    """Fewest and most things in a scene."""
    relations: tuple[str, ...] = RELATIONS
    """Relations that texts may name."""
    look_alikes: float = 0.25
    """Share of scenes in which two things have one colour or one shape. In the others all differ in both, and in those
    that do not show everything."""
    noise: float = 0.0
    """Share of training scenes whose captions are exchanged."""

    def __post_init__(self) -> None:
        fewest, most = self.things
        if not 2 <= fewest <= most <= MAX_THINGS:
            raise UserError(f"{fewest} to {most} things in a scene", f"give two numbers from 2 to {MAX_THINGS}")
        if self.side < 48:
            raise UserError(f"a side of {self.side} pixels is too small to tell shapes apart", "give 48 or more")
        if self.scenes < 100 or self.held_out < 100:
            raise UserError(
                f"{self.scenes} training scenes and {self.held_out} of each held-out split",
                "give 100 or more of each: statements about two scenes need a choice of scenes",
            )
        if not self.relations or not set(self.relations) <= set(RELATIONS):
            raise UserError(f"relations {self.relations}", f"choose from {', '.join(RELATIONS)}")


@dataclass(frozen=True)
class World:
    """All scenes of a world."""

    settings: WorldSettings
    held_out_pairs: frozenset[Pair]
    """One for each colour and each shape; only scenes of `test_new` show them, and only its texts name them."""
    scenes: dict[str, list[Scene]]
    """Split -> scenes that show everything of their things."""
    veiled: dict[str, list[Scene]]
    """Split -> scenes in which the colour or the shape of one thing is not shown; for entailment."""

    def may_name(self, split: str, colour: str, shape: str) -> bool:
        """Whether texts of a split may name this pair."""
        return split == "test_new" or (colour, shape) not in self.held_out_pairs


def make_world(settings: WorldSettings) -> World:
    """Draw all scenes.

    Raises: UserError when there are not as many different scenes as asked for.
    """
    shapes = Draws(settings.seed, "held-out pairs").shuffled(SHAPES)
    world = World(settings, frozenset(zip(COLOURS, shapes, strict=True)), {}, {})
    seen: set[tuple[tuple[str, ...], ...]] = set()
    for split in reversed(SPLITS):
        count = settings.scenes if split == "train" else settings.held_out
        world.scenes[split] = [_new_scene(world, split, f"{split}/{i:06}", seen, veil=False) for i in range(count)]
        world.veiled[split] = [
            _new_scene(world, split, f"{split}_veiled/{i:06}", seen, veil=True) for i in range(count)
        ]
    return world


def _new_scene(world: World, split: str, name: str, seen: set[tuple[tuple[str, ...], ...]], *, veil: bool) -> Scene:
    """A scene unlike all of `seen`, to which it is added."""
    for attempt in range(MAX_TRIES):
        draws = Draws(world.settings.seed, name, attempt)
        scene = _scene(world.settings, name, draws, look_alikes=0.0 if veil else world.settings.look_alikes)
        if veil:
            scene = _veiled(scene, draws)
        held_out = bool(scene.pairs & world.held_out_pairs)
        if held_out == (split == "test_new") and scene.canonical() not in seen:
            seen.add(scene.canonical())
            return scene
    raise UserError(f"no new scene found for {name} in {MAX_TRIES} tries", "ask for fewer scenes or for more things")


def _scene(settings: WorldSettings, name: str, draws: Draws, *, look_alikes: float) -> Scene:
    count = draws.between(*settings.things)
    colours, shapes = draws.sample(tuple(COLOURS), count), draws.sample(SHAPES, count)
    if draws.chance(look_alikes):
        alike = draws.choice((colours, shapes))
        alike[1] = alike[0]
    things = [
        _thing(settings.side, colour, shape, cell, draws)
        for colour, shape, cell in zip(colours, shapes, draws.sample(range(9), count), strict=True)
    ]
    return Scene(name=name, things=tuple(things))


def _thing(side: int, colour: str, shape: str, cell: int, draws: Draws) -> Thing:
    """Somewhere in its cell; two things of one column, or row, always overlap in x, or y, so that neither is beside."""
    size = draws.choice(SIZES)
    low, high = (side * percent // 100 for percent in DIAMETERS[size])
    diameter = draws.between(low, high)
    room = min(side // 3 - diameter, 6 * side // 64)
    corner = [index * side // 3 + (side // 3 - diameter - room + 1) // 2 for index in (cell % 3, cell // 3)]
    x, y = (edge + draws.between(0, room) for edge in corner)
    rgb = _shade(COLOURS[colour], draws)
    return Thing(colour=colour, shape=shape, size=size, cell=cell, x=x, y=y, diameter=diameter, rgb=rgb)


def _shade(rgb: RGB, draws: Draws) -> RGB:
    red, green, blue = (min(255, max(0, value + draws.between(-9, 9))) for value in rgb)
    return red, green, blue


def _veiled(scene: Scene, draws: Draws) -> Scene:
    """The scene without the colour, or without the shape, of one of its things."""
    hidden, what = draws.below(len(scene.things)), draws.choice(("colour", "shape"))
    things = list(scene.things)
    if what == "colour":
        things[hidden] = replace(things[hidden], colour=None, rgb=(255, 255, 255))
    else:
        things[hidden] = replace(things[hidden], shape=None)
    return replace(scene, things=tuple(things))
