"""`pipeline import`: an official checkpoint of any task to a folder that the task's class and `evaluate` load."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from albef.errors import CheckpointError, ConfigError
from base.flag_types import positive
from pipeline.checkpoints.layout import digest
from pipeline.export.output_folder import atomic_folder, check_free
from pipeline.run.logs import print_answer
from samples.quote import quote

if TYPE_CHECKING:  # torch is imported where it is used, so that `import --help` need not wait for it
    from albef.saved_model import SavedModel

log = logging.getLogger(__name__)

LAYOUTS = {
    "pretraining": "pretraining",
    "retrieval": "retrieval or grounding",
    "snli-ve": "visual entailment",
    "vqa": "visual question answering",
    "nlvr2-pretrain": "text assignment",
    "nlvr2": "NLVR2",
}
"""Task -> name of the layout (`albef.weights.official_layouts`) of its official checkpoints."""
TEXT_TOKENS = 30
"""The original cuts texts to these in its evaluation of pretrained and retrieval models."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `import`."""
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="an official checkpoint, pretrained or fine-tuned: .pth or .safetensors, wrapped or bare",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--task",
        choices=list(LAYOUTS),
        help="the task that the file must be of; retrieval for grounding too (default: the one that its names show)",
    )
    parser.add_argument(
        "--weights",
        choices=["student", "teacher"],
        default="student",
        help="teacher: the momentum average, the file's names with _m, instead of the trained weights "
        "(default: student)",
    )
    parser.add_argument(
        "--image-size", type=int, metavar="PX", help="resize the position embeddings to this image side (default: keep)"
    )
    parser.add_argument(
        "--max-text-tokens",
        type=positive,
        metavar="N",
        help=f"cut texts to N tokens, [CLS] included (default: {TEXT_TOKENS} of pretraining and retrieval, as the "
        "original evaluates; of the others that of their recipes)",
    )
    parser.add_argument(
        "--answers", type=Path, metavar="FILE", help="of vqa: the model's JSON list of answers, to refuse others later"
    )
    parser.add_argument(
        "--first-token-twice",
        action="store_true",
        help="of vqa: count the first token of an answer twice when ranking, as the original does",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing exported model")
    heads = "attention heads (default: one per 64 of width, as all released checkpoints have)"
    parser.add_argument("--vision-heads", type=int, metavar="N", help=f"the image encoder's {heads}")
    parser.add_argument("--text-heads", type=int, metavar="N", help=f"the text encoder's {heads}")


def run(args: argparse.Namespace) -> int:
    """`import`."""
    import_official(
        args.file,
        args.out,
        task=args.task,
        kind=args.weights,
        image_size=args.image_size,
        max_text_tokens=args.max_text_tokens,
        answers=args.answers,
        first_token_twice=args.first_token_twice,
        vision_heads=args.vision_heads,
        text_heads=args.text_heads,
        overwrite=args.overwrite,
    )
    print_answer(str(args.out))
    return 0


def import_official(
    file: Path,
    out: Path,
    *,
    task: str | None = None,
    kind: Literal["student", "teacher"] = "student",
    image_size: int | None = None,
    max_text_tokens: int | None = None,
    answers: Path | None = None,
    first_token_twice: bool = False,
    vision_heads: int | None = None,
    text_heads: int | None = None,
    overwrite: bool = False,
) -> None:
    """Translate an official checkpoint, strictly, and write it as a model folder.

    The folder holds the student, or the teacher. The other, and queues, which only further training would use, are
    checked like the rest and left out. The model card lists them.

    Args:
        file: the checkpoint, wrapped or bare, with or without `_m` keys and queues.
        out: written whole or not at all.
        task: what the file must be of; None takes any.
        kind: `teacher` takes the momentum average; what it does not average is the student's.
        image_size: side in pixels to resize the position embeddings to; None keeps the checkpoint's.
        max_text_tokens: cut texts to this many tokens, [CLS] included; None takes the task's.
        answers: of VQA, the list of candidates, whose fingerprint the folder gets.
        first_token_twice: of VQA, how the model ranks.
        vision_heads, text_heads: attention heads, if they are not one per 64 of width.

    Raises: CheckpointError when the file is missing, damaged, no official checkpoint, of another task or without the
        weights that `kind` names, or `out` must not be overwritten;
        ConfigError when the patches do not divide image_size, or a flag is not of the file's task;
        DataError when the answers cannot be read.
    """
    check_free(out, overwrite=overwrite)
    from albef.weights.files import load_strictly
    from albef.weights.official import read_official
    from pipeline.tasks.pretraining.model_card import card_of_official

    found = read_official(file, vision_heads=vision_heads, text_heads=text_heads, image_size=image_size)
    theirs = task_of_layout(file, found.layout.name, wanted=task)
    if kind == "teacher" and found.teacher is None:
        raise CheckpointError(f"{quote(file)} holds no momentum weights", "import the student: --weights student")
    details = vqa_details(theirs, answers, first_token_twice=first_token_twice)
    saved_kind, use, default_tokens = saved_as(theirs)
    model = saved_kind.build(found.config)
    weights = found.student | (found.teacher if kind == "teacher" and found.teacher else {})
    load_strictly(model, weights, source=str(file))
    notes = [f"position embeddings resized to {image_size} px"] if image_size else []
    notes += ["the weights are the momentum average"] if kind == "teacher" else []
    other = "student" if kind == "teacher" else "momentum teacher"
    left_out = [what for what, there in ((other, found.teacher), ("queues", found.queue)) if there]
    notes += [f"left out: {' and '.join(left_out)}"] if left_out else []
    with atomic_folder(out, overwrite=overwrite) as folder:
        card = card_of_official(file.name, found.config, _sha256(file), notes, use=use)
        saved = saved_kind(model, max_text_tokens=max_text_tokens or default_tokens, **details)
        saved.save_pretrained(folder, model_card=card)
    for note in notes:
        log.info("%s", note)
    log.info("imported %s, a checkpoint of %s, to %s", file, found.layout.name, out)


def task_of_layout(file: Path, layout: str, *, wanted: str | None) -> str:
    """The task whose official checkpoints are of a layout. Raises: CheckpointError unless it is `wanted`, if given."""
    task = next(task for task, name in LAYOUTS.items() if name == layout)
    if wanted not in (None, task):
        raise CheckpointError(
            f"{quote(file)} is a checkpoint of {layout}, not of {LAYOUTS[wanted or task]}",
            f"leave --task out, or give --task {task}",
        )
    return task


def saved_as(task: str) -> tuple[type[SavedModel[Any]], str, int]:
    """What a task's model is saved as, the card's section about its use, and the tokens that texts are cut to."""
    from albef.pretrained import Albef
    from pipeline.tasks.pretraining.export import exported_task
    from pipeline.tasks.pretraining.model_card import USE

    exported = exported_task(task)
    if exported is None:
        return Albef, USE, TEXT_TOKENS
    tokens: int = TEXT_TOKENS if task == "retrieval" else exported.objective().max_text_tokens
    return exported.kind, exported.use, tokens


def vqa_details(task: str, answers: Path | None, *, first_token_twice: bool) -> dict[str, Any]:
    """What a model of VQA has besides. Raises: ConfigError for another task with such flags, DataError for the list."""
    if task != "vqa":
        if answers is not None or first_token_twice:
            raise ConfigError(f"--answers and --first-token-twice are of vqa, and the file of {task}", "leave them out")
        return {}
    from pipeline.tasks.vqa.annotations import read_candidates

    fingerprint = None if answers is None else read_candidates(str(answers)).fingerprint
    return {"first_token_twice": first_token_twice, "answers_fingerprint": fingerprint}


def _sha256(file: Path) -> str:
    try:
        return digest(file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}", "is the disk still there?") from error
