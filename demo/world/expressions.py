"""Expressions that refer to one thing of a scene and to no other."""

from __future__ import annotations

from dataclasses import dataclass

from demo.world.draws import Draws
from demo.world.questions import by_relation
from demo.world.scene import Scene, Thing, names_of
from demo.world.scenes import World

RELATIONAL = 0.25
"""Share of expressions that name a thing by its relation to another."""


@dataclass(frozen=True)
class Expression:
    """What is meant, in words and as a thing."""

    text: str
    thing: Thing


def expressions(world: World, scene: Scene) -> list[Expression]:
    """One for each thing of the scene that has one."""
    draws, found = Draws(world.settings.seed, "expressions", scene.name), []
    for thing in scene.things:
        text = _expression(world, scene, thing, draws)
        if text is not None:
            found.append(Expression(text, thing))
    return found


def _expression(world: World, scene: Scene, thing: Thing, draws: Draws) -> str | None:
    names, by = names_of(scene, thing), by_relation(world, scene, thing, draws)
    if names and not (by and draws.chance(RELATIONAL)):
        return str(draws.choice(names))
    return f"thing {by}" if by else None
