"""The README of a world: what it shows, how many of what, and what chance gives in each task."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

from demo.world import chance
from demo.world.chance import answer_of, label_of
from demo.world.scene import COLOURS, PLACES, SHAPES
from demo.world.scenes import SPLITS, World

HELD_OUT = SPLITS[1:]

TEXT = """# A generated world of simple things

    python -m demo.world OUT {flags}

Scenes drawn from a seed, with everything that is true of them known. The same command gives the same pixels and the
same annotation files on every machine; their SHA-256 is `{digest}`.

## What a picture shows

{side} x {side} pixels, PNG, in `{images}`: {things} things, each in one of nine cells.

| | |
| --- | --- |
| places | {places} |
| colours | {colours} |
| shapes | {shapes} |
| sizes | small, large |

Shade and the exact position within the cell vary. "Left of" means in a column further left, so that the
whole box is further left; likewise "right of", "above" (a higher row) and "below". In {look_alikes:.0f}% of scenes two
things have the same colour or the same shape.

Pictures in the folders `SPLIT_veiled` are for entailment. One of their things is white with a question mark: its colour
is not shown. Or a question mark stands where its shape would be: its shape is not shown. A hypothesis is `neutral` when
it is true for one value of what is not shown and false for another. There is no true value: none was drawn.

No scene occurs twice in all splits, where scenes are the same if they show the same things of the same sizes in the
same cells. Each scene of `test_new` has a pair of colour and shape that no picture and no text of the other splits has:

{pairs}

## Files

In `annotations/`, each a JSON file.

| file | a row | train | val | test | test_new |
| --- | --- | --- | --- | --- | --- |
{counts}

`answer_list` has the {num_answers} answers. `dets` has the boxes of all things by `image_id`, as a perfect detector
would propose them. Boxes are x, y, width, height in pixels. `../scenes.jsonl` has all that is true of each picture.

- **Captions.** Up to four a scene. Those of `val`, `test` and `test_new` are true of one picture of their split only,
  so that R@1 can be 100%. {noise}
- **Matching.** In `itm_*`, each caption stands once with its picture and once with a picture it is false of, which in
  about half of the pairs shows a thing that the caption names.
- **VQA.** One question a scene about a colour, a shape, a number and a place, and one each to answer yes and no.
- **NLVR2.** Each statement has four pairs of pictures, two of them true. Two of five statements are about the left or
  the right picture, and the other one gives nothing away; one of five says that both pictures, or at least one, contain
  something; two of five compare the pictures: what one picture shows is as frequent under `True` as under `False`.
- **Entailment.** Each picture has one hypothesis of each label.
- **Grounding.** Each expression fits one thing of its picture and no other.

## Chance

Percent. "Text alone" is the most frequent label of the same text in training, or the overall one for a new text.

| task | | val | test | test_new |
| --- | --- | --- | --- | --- |
{chances}
"""


def datasheet(world: World, files: dict[str, Any], *, images: str, digest: str) -> str:
    """The page.

    Args:
        files: content of the annotation files by name.
        images: where the pictures are.
        digest: of pixels and annotations.
    """
    settings = world.settings
    fewest, most = settings.things
    flags = f"--seed {settings.seed} --scenes {settings.scenes} --held-out {settings.held_out} --side {settings.side}"
    flags += f" --things {fewest} {most} --look-alikes {settings.look_alikes} --noise {settings.noise}"
    flags += " --relations " + " ".join(f'"{relation}"' for relation in settings.relations)
    noisy = f"In `pretrain_train`, {100 * settings.noise:.0f}% of the scenes have the captions of another."
    return TEXT.format(
        flags=flags,
        digest=digest,
        side=settings.side,
        images=images,
        things=fewest if fewest == most else f"{fewest} to {most}",
        places=", ".join(PLACES),
        colours=", ".join(COLOURS),
        shapes=", ".join(SHAPES),
        look_alikes=100 * settings.look_alikes,
        pairs=", ".join(sorted(" ".join(pair) for pair in world.held_out_pairs)),
        counts="\n".join(_counts(files)),
        num_answers=len(files["answer_list"]),
        noise=noisy,
        chances="\n".join(_chances(settings.side, files)),
    )


def _counts(files: dict[str, Any]) -> list[str]:
    kinds = {
        "pretrain": "a picture and its captions",
        "retrieval": "training: a caption; else a picture and its captions",
        "itm": "a picture and a caption",
        "vqa": "a question",
        "nlvr": "a statement and two pictures",
        "ve": "a hypothesis and a picture",
        "grounding": "an expression",
    }
    rows = []
    for kind, row in kinds.items():
        numbers = [f"{len(files[name]):,}" if (name := f"{kind}_{split}") in files else "" for split in SPLITS]
        rows.append(f"| `{kind}_SPLIT` | {row} | {' | '.join(numbers)} |")
    return rows


def _chances(side: int, files: dict[str, Any]) -> list[str]:
    """A row a task and a way to guess."""

    def line(task: str, way: str, percent: dict[str, float]) -> str:
        return f"| {task} | {way} | {' | '.join(f'{percent[split]:.1f}' for split in HELD_OUT)} |"

    def of(task: str, split: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = files[f"{task}_{split}"]
        return rows

    num_images = {split: len(of("retrieval", split)) for split in HELD_OUT}
    lines = [
        line("retrieval", "R@1 of a random order", {split: 100 / n for split, n in num_images.items()}),
        line("matching", "most frequent label", {s: chance.majority(of("itm", s), label_of) for s in HELD_OUT}),
    ]
    for name, task, label, text in (
        ("VQA", "vqa", answer_of, "question"),
        ("NLVR2", "nlvr", label_of, "sentence"),
        ("entailment", "ve", label_of, "sentence"),
    ):
        word = "answer" if task == "vqa" else "label"
        lines.append(line(name, f"most frequent {word}", {s: chance.majority(of(task, s), label) for s in HELD_OUT}))
        if task == "vqa":
            by_kind = {
                s: chance.blind(of(task, "train"), of(task, s), label, itemgetter("question_type")) for s in HELD_OUT
            }
            lines.append(line(name, "kind of question alone", by_kind))
        by_text = {s: chance.blind(of(task, "train"), of(task, s), label, itemgetter(text)) for s in HELD_OUT}
        lines.append(line(name, "text alone", by_text))
    boxes = files["dets"]
    lines += [
        line("pointing game", "random place", {s: chance.random_place(of("grounding", s), side) for s in HELD_OUT}),
        line("pointing game", "random thing", {s: chance.random_thing(of("grounding", s), boxes) for s in HELD_OUT}),
    ]
    return lines
