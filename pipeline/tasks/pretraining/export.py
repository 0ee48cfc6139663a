"""`pipeline export`: a checkpoint to a model folder that `Albef.from_pretrained` loads, or to the official layout."""

from __future__ import annotations

import argparse
import functools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipeline.export.output_folder import MADE_BY, OFFICIAL_NAME, atomic_folder, check_free
from pipeline.run.logs import print_answer

if TYPE_CHECKING:  # torch is imported where it is used, so that `export --help` need not wait for it
    from pipeline.tasks.finetuning.export import ExportedTask

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `export`."""
    parser.add_argument(
        "checkpoint",
        type=Path,
        metavar="CKPT",
        help="a step_* folder, or a run or checkpoints folder to take the one that pretrain would resume from; of any "
        "ZeRO stage and number of ranks",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--format",
        choices=["hf", "official"],
        default="hf",
        help="hf: model.safetensors, config.json, tokenizer, preprocessing, model card, for Albef.from_pretrained "
        f"(default); official: {OFFICIAL_NAME} with student, teacher and queues in the layout of salesforce/ALBEF",
    )
    parser.add_argument(
        "--weights",
        choices=["student", "teacher"],
        default="student",
        help="teacher: the momentum average instead of the weights that the optimizer trained (default: student)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing exported model")


def run(args: argparse.Namespace) -> int:
    """`export`, of a checkpoint of any task."""
    from pipeline.checkpoints.layout import resolve_checkpoint
    from pipeline.checkpoints.weights import read_shape

    check_free(args.out, overwrite=args.overwrite)
    folder, _ = resolve_checkpoint(args.checkpoint)
    export = export_checkpoint
    if exported := exported_task(read_shape(folder).get("task")):
        from pipeline.tasks.finetuning import export as fine_tuned

        export = functools.partial(fine_tuned.export_checkpoint, task=exported)
    export(folder, args.out, layout=args.format, kind=args.weights, overwrite=args.overwrite)
    print_answer(str(args.out))
    return 0


def exported_task(task: str | None) -> ExportedTask | None:
    """What a fine-tuning's checkpoints are exported as; None for pretraining."""
    if task == "snli-ve":
        from pipeline.tasks.snli_ve.export import ENTAILMENT

        return ENTAILMENT
    if task == "vqa":
        from pipeline.tasks.vqa.export import VQA

        return VQA
    if task == "retrieval":
        from pipeline.tasks.retrieval.finetuning.export import RETRIEVAL

        return RETRIEVAL
    if task == "grounding":
        from pipeline.tasks.retrieval.finetuning.export import GROUNDING

        return GROUNDING
    if task == "nlvr2-pretrain":
        from pipeline.tasks.text_assignment.export import ALIGNMENT

        return ALIGNMENT
    if task == "nlvr2":
        from pipeline.tasks.nlvr2.export import NLVR2

        return NLVR2
    return None


def export_checkpoint(
    checkpoint: Path,
    out: Path,
    *,
    layout: Literal["hf", "official"] = "hf",
    kind: Literal["student", "teacher"] = "student",
    overwrite: bool = False,
) -> None:
    """Write the fp32 weights of a checkpoint as a folder; needs no process group, no GPU, no run configuration.

    Args:
        checkpoint: a step_* folder, or a run or checkpoints folder.
        out: written whole or not at all.
        kind: `teacher` takes the momentum average instead of the student's weights. The matching head and the
            temperature have no average and are always the student's.

    Raises: CheckpointError when the checkpoint is missing, damaged or does not fit, or `out` must not be overwritten.
    """
    check_free(out, overwrite=overwrite)
    # imported where they are used, so that `export --help` need not wait for torch
    from albef.model import AlbefForPretraining
    from albef.pretrained import Albef
    from albef.weights.files import load_strictly
    from albef.weights.official import to_official
    from albef.weights.tensor_file import write_pickle
    from pipeline.run.training_data import record_beside
    from pipeline.tasks.pretraining.model_card import card_of_checkpoint
    from pipeline.tasks.pretraining.weights import load_weights

    found = load_weights(checkpoint)
    weights = found.student | (found.teacher if kind == "teacher" else {})
    with atomic_folder(out, overwrite=overwrite) as folder:
        if layout == "official":
            write_pickle(folder / OFFICIAL_NAME, {"model": to_official(weights, found.teacher, found.queue)})
            (folder / MADE_BY).write_text(f"`pipeline export` wrote {OFFICIAL_NAME}; --overwrite replaces it.\n")
        else:
            model = AlbefForPretraining(found.config, found.objective)
            load_strictly(model, weights, source=str(found.path))
            albef = Albef(model, max_text_tokens=found.objective.max_text_tokens)
            albef.training_data = record_beside(found.path)
            albef.save_pretrained(folder, model_card=card_of_checkpoint(found, kind))
    log.info("exported the %s of %s (step %d) to %s", kind, found.path, found.meta.step, out)
