"""The tasks of a world as rows of the official annotation files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from demo.world.captions import Caption, Captioner, exchanged, matching_pairs
from demo.world.drawing import box_of
from demo.world.expressions import expressions
from demo.world.hypotheses import hypotheses
from demo.world.questions import ANSWERS, questions
from demo.world.scene import Scene
from demo.world.scenes import SPLITS, World
from demo.world.statements import statements

VQA_ANSWERS = 10
"""The VQA data set has the answers of ten people to each question; here all agree."""

Row = dict[str, Any]


def annotation_files(world: World) -> Iterator[tuple[str, Any]]:
    """Name and content of each annotation file, without `.json`; rows are in the order of the scenes."""
    for split in SPLITS:
        captioner = Captioner(world, split, unambiguous=split != "train")
        captions = {scene.name: captioner.captions(scene) for scene in world.scenes[split]}
        if split == "train":
            yield "pretrain_train", _pretraining(world, captions)
        else:
            yield f"itm_{split}", _matching(world, split, captions)
        yield f"retrieval_{split}", _retrieval(world, split, captions)
        yield f"vqa_{split}", _vqa(world, split)
        yield f"nlvr_{split}", _nlvr(world, split)
        yield f"ve_{split}", _entailment(world, split)
        yield f"grounding_{split}", _grounding(world, split)
    yield "answer_list", list(ANSWERS)
    yield "dets", _boxes(world)


def truth(world: World) -> Iterator[Row]:
    """All there is to know of each scene; a colour or shape that the picture does not show is None."""
    for scenes in (*world.scenes.values(), *world.veiled.values()):
        for scene in scenes:
            things = [
                {"color": t.colour, "shape": t.shape, "size": t.size, "place": t.place, "box": box_of(t)}
                for t in scene.things
            ]
            yield {"image": scene.image, "things": things}


def _pretraining(world: World, captions: dict[str, list[Caption]]) -> list[Row]:
    """A row a picture, with all its captions; with noise, some have those of another picture."""
    other = exchanged(world)
    return [
        {"image": scene.image, "caption": [caption.text for caption in captions[other.get(scene.name, scene.name)]]}
        for scene in world.scenes["train"]
    ]


def _retrieval(world: World, split: str, captions: dict[str, list[Caption]]) -> list[Row]:
    """Training: a row a caption. Evaluation: a row a picture."""
    rows: list[Row] = []
    for image_id, scene in enumerate(world.scenes[split]):
        texts = [caption.text for caption in captions[scene.name]]
        each: list[Any] = [*texts] if split == "train" else [texts]
        rows += [{"image": scene.image, "caption": caption, "image_id": image_id} for caption in each]
    return rows


def _matching(world: World, split: str, captions: dict[str, list[Caption]]) -> list[Row]:
    return [
        {"image": scene.image, "caption": caption.text, "label": str(matches)}
        for scene, caption, matches in matching_pairs(world, split, captions)
    ]


def _vqa(world: World, split: str) -> list[Row]:
    return _numbered(
        split,
        "question_id",
        world.scenes[split],
        lambda scene: [
            {
                "question": question.text,
                "image": scene.image,
                "answer": [question.answer] * VQA_ANSWERS,
                "answer_type": question.answer_type,
                "question_type": question.kind,
                "dataset": "vqa",
            }
            for question in questions(world, split, scene)
        ],
    )


def _nlvr(world: World, split: str) -> list[Row]:
    return [
        {"images": [one.first.image, one.second.image], "sentence": one.text, "label": str(one.is_true)}
        for one in statements(world, split)
    ]


def _entailment(world: World, split: str) -> list[Row]:
    return [
        {"image": scene.image, "sentence": one.text, "label": one.label}
        for scene in world.veiled[split]
        for one in hypotheses(world, split, scene)
    ]


def _grounding(world: World, split: str) -> list[Row]:
    return _numbered(
        split,
        "ref_id",
        world.scenes[split],
        lambda scene: [
            {"image": scene.image, "image_id": scene.name, "text": one.text, "box": box_of(one.thing)}
            for one in expressions(world, scene)
        ],
    )


def _boxes(world: World) -> dict[str, list[tuple[int, int, int, int]]]:
    """`image_id` -> the box of every thing, as a perfect detector would propose them."""
    return {s.name: [box_of(thing) for thing in s.things] for split in SPLITS for s in world.scenes[split]}


def _numbered(split: str, key: str, scenes: list[Scene], rows_of: Callable[[Scene], list[Row]]) -> list[Row]:
    """The rows of all scenes, each with a number that no row of another split has."""
    first = 10_000_000 * SPLITS.index(split)
    rows = [row for scene in scenes for row in rows_of(scene)]
    return [{key: first + number, **row} for number, row in enumerate(rows)]
