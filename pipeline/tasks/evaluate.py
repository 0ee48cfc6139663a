"""`pipeline evaluate TASK`: retrieval of a pretrained or fine-tuned model, or accuracy of one that was fine-tuned."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from albef.errors import CheckpointError, ConfigError
from base import atomic_file
from base.progress import ProgressOfParts
from pipeline.run.logs import print_answer
from samples.json_text import parse_json
from samples.plain_file import read_plain

if TYPE_CHECKING:  # torch is imported where it is used, so that `evaluate --help` does not wait for it
    from pipeline.data.corpus.splits import Split
    from pipeline.engine.distributed import World
    from pipeline.tasks.retrieval.annotations import EvaluationPairs

log = logging.getLogger(__name__)

MAX_RESULT_BYTES = 64 << 20
DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `evaluate`."""
    parser.add_argument(
        "task",
        choices=["retrieval", "snli-ve", "vqa", "nlvr2", "grounding"],
        help="retrieval: both ways, re-ranked by matching; snli-ve, vqa, nlvr2: accuracy of a fine-tuned model; "
        "grounding: boxes by Grad-CAM",
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="folder that export or import wrote")
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help='JSON list of {"image": path, "caption": text or list of texts}; of other tasks, their official lists',
    )
    parser.add_argument(
        "--images", type=Path, metavar="ROOT", help="folder, or packed zip, that the annotations' paths start from"
    )
    parser.add_argument("--data", metavar="SHARDS", help="instead: a manifest.parquet, or the folder that holds one")
    parser.add_argument(
        "--captions", choices=["all", "first"], default="all", help="every caption of an image (default), or its first"
    )
    parser.add_argument(
        "--k-test",
        type=int,
        default=128,
        metavar="K",
        help="candidates per query re-ranked by matching (default: 128, the original's for Flickr30k; 256 for COCO); "
        "of vqa, answers per question that are read whole",
    )
    parser.add_argument("--answers", type=Path, metavar="FILE", help="of vqa: JSON list of the candidate answers")
    parser.add_argument("--dets", type=Path, metavar="FILE", help="of grounding: a detector's boxes (dets.json)")
    parser.add_argument(
        "--by",
        choices=["itm", "itc"],
        default="itm",
        help="of grounding: maps of cross-attention by matching (default), or of the image encoder by similarity",
    )
    parser.add_argument(
        "--block",
        type=int,
        metavar="N",
        help="of grounding: layer of the multimodal (itm) or image encoder (itc), from 0 (default: the third of six, "
        "the last)",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:N, or auto: CUDA where there is one (default)"
    )
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images encoded at once (default: 64)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="of weights and arithmetic (default: float32)"
    )
    parser.add_argument(
        "--num-workers", type=int, metavar="N", help="threads per rank that load images (default: cores)"
    )


def run(args: argparse.Namespace) -> int:
    """`evaluate`; several ranks (torchrun, srun) divide the work, and rank 0 writes the result."""
    check_flags(args)
    from pipeline.engine import distributed

    world = distributed.join_ranks(args.device)
    try:
        own = {"retrieval": evaluate_retrieval, "vqa": evaluate_vqa, "grounding": evaluate_grounding}
        metrics = own.get(args.task, evaluate_classes)(args, world)
        if world.is_main:
            write_json(args.out, metrics)
            print_answer({"retrieval": table, "grounding": grounded}.get(args.task, accuracies)(metrics))
            print_answer(str(args.out))
            if args.task == "vqa":
                print_answer(f"{server_file(args.out)} is what the VQA server takes: every question once")
    finally:
        distributed.shutdown()
    return 0


def evaluate_retrieval(args: argparse.Namespace, world: World) -> dict[str, Any]:
    """The metrics that --out gets, on every rank."""
    import torch

    from albef.pretrained import Albef
    from pipeline.run.training_data import compare_with_training
    from pipeline.tasks.retrieval.annotations import retrieval_set
    from pipeline.tasks.retrieval.evaluation import retrieve

    albef = Albef.from_pretrained(args.model, device=world.device).to(getattr(torch, args.dtype))
    pairs = load_pairs(args)
    data = retrieval_set(pairs, albef.config, albef.tokenizer, max_text_tokens=albef.max_text_tokens)
    if world.is_main:
        ranks = f"{world.size} ranks" if world.size > 1 else "one rank"
        log.info("%d images, %d texts, %s on %s", data.num_images, data.num_texts, ranks, world.device)
    result = retrieve(
        albef.model,
        data,
        world=world,
        k_test=args.k_test,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        progress=ProgressOfParts(log=log.info) if world.is_main else None,
    )
    return result.metrics() | {
        "num_images": data.num_images,
        "num_texts": data.num_texts,
        "k_test": args.k_test,
        "task": "retrieval",
        "model": str(args.model),
        "data": str(args.data or args.annotations),
        "captions": args.captions,
        "dtype": args.dtype,
        "trained_on": compare_with_training(albef.training_data, *recognised_by(args, pairs), world),
    }


def evaluate_classes(args: argparse.Namespace, world: World) -> dict[str, Any]:
    """What --out gets of a task that chooses a class, on every rank."""
    import torch

    if args.task == "snli-ve":
        from pipeline.tasks.snli_ve.evaluation import evaluate_entailment as evaluate
    else:
        from pipeline.tasks.nlvr2.evaluation import evaluate_nlvr2 as evaluate
    found = evaluate(
        model=args.model,
        annotations=args.annotations,
        images=[args.images],
        world=world,
        dtype=getattr(torch, args.dtype),
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        progress=ProgressOfParts(log=log.info) if world.is_main else None,
    )
    facts = {"task": args.task, "model": str(args.model), "data": str(args.annotations), "dtype": args.dtype}
    return facts | found


def evaluate_vqa(args: argparse.Namespace, world: World) -> dict[str, Any]:
    """What --out gets, on every rank; rank 0 writes the server's file beside it."""
    import torch

    from pipeline.tasks.vqa import evaluation

    found, server = evaluation.evaluate_vqa(
        args.model,
        args.annotations,
        [args.images],
        args.answers,
        k=args.k_test,
        world=world,
        dtype=getattr(torch, args.dtype),
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        progress=ProgressOfParts(log=log.info) if world.is_main else None,
    )
    if world.is_main:
        write_json(server_file(args.out), server)
    facts = {"task": "vqa", "model": str(args.model), "data": str(args.annotations), "dtype": args.dtype}
    return facts | {"answer_list": str(args.answers)} | found


def evaluate_grounding(args: argparse.Namespace, world: World) -> dict[str, Any]:
    """What --out gets, on every rank."""
    import torch

    from pipeline.tasks.grounding.command import evaluate_grounding

    found = evaluate_grounding(
        args.model,
        args.annotations,
        [args.images],
        args.dets,
        by=args.by,
        layer=args.block,
        world=world,
        dtype=getattr(torch, args.dtype),
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        progress=ProgressOfParts(log=log.info) if world.is_main else None,
    )
    facts = {"task": "grounding", "model": str(args.model), "data": str(args.annotations), "dtype": args.dtype}
    return facts | {"dets": None if args.dets is None else str(args.dets)} | found


def server_file(out: Path) -> Path:
    """Where the answers for VQA's server go: beside --out."""
    return out.with_name(f"{out.stem}_server.json")


def check_flags(args: argparse.Namespace) -> None:
    """Raise a ConfigError or CheckpointError for flags that cannot work, before anything is loaded."""
    if args.task != "retrieval" and args.data is not None:
        raise ConfigError(f"evaluate {args.task} takes no --data", "--annotations FILE.json --images ROOT")
    if (args.task == "vqa") != (args.answers is not None):
        way = "--answers answer_list.json" if args.task == "vqa" else "leave --answers out"
        raise ConfigError(f"evaluate {args.task} {'needs' if args.task == 'vqa' else 'takes no'} --answers", way)
    if args.task == "vqa" and os.path.lexists(server_file(args.out)) and not os.path.lexists(args.out):
        raise ConfigError(f"{server_file(args.out)} exists, and {args.out} does not", "name another --out, or move it")
    for flag, is_set in (
        ("--dets", args.dets is not None),
        ("--by itc", args.by == "itc"),
        ("--block", args.block is not None),
    ):
        if is_set and args.task != "grounding":
            raise ConfigError(f"evaluate {args.task} takes no {flag}", "leave it out")
    if (args.data is None) == (args.annotations is None):
        raise ConfigError(
            "there must be either --annotations or --data", "--annotations FILE.json --images ROOT, or --data SHARDS"
        )
    if (args.annotations is None) != (args.images is None):
        raise ConfigError(
            "--annotations and --images go together", "--images names the folder that the annotations' paths start from"
        )
    for flag in ("k_test", "batch_size", "num_workers"):
        value = getattr(args, flag)
        if value is not None and value < 1:
            raise ConfigError(f"--{flag.replace('_', '-')} is {value}", "it must be at least 1")
    if args.out.is_dir():
        raise ConfigError(f"--out {args.out} is a folder", "name the JSON file to write")
    if os.path.lexists(args.out) and not _is_evaluation(args.out):
        raise ConfigError(
            f"--out {args.out} exists, and is not the result of an evaluation",
            "name another file, or move it elsewhere",
        )
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {args.out} cannot be written: {error.strerror}", "name another file") from error
    if args.model.is_file():
        raise CheckpointError(
            f"--model {args.model} is a file", "`python -m pipeline import FILE.pth --out DIR` makes a folder of it"
        )
    if (args.model / "checkpoints").is_dir() or (args.model / "meta.json").is_file():
        raise CheckpointError(
            f"--model {args.model} holds checkpoints, not an exported model",
            f"`python -m pipeline export {args.model} --out DIR` makes one",
        )


def _is_evaluation(file: Path) -> bool:
    """Whether an earlier `evaluate` wrote a file, which this one may then replace."""
    try:
        values = parse_json(read_plain(file, MAX_RESULT_BYTES))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and {"task", "model", "data"} <= values.keys()


def load_pairs(args: argparse.Namespace) -> EvaluationPairs:
    """The images and captions that the flags name."""
    from pipeline.data.corpus.manifest import read_manifest
    from pipeline.tasks.retrieval.annotations import EvaluationPairs

    if args.data is not None:
        return EvaluationPairs.from_manifest(read_manifest(args.data), args.captions)
    return EvaluationPairs.from_annotations(args.annotations, args.images, args.captions)


def recognised_by(args: argparse.Namespace, pairs: EvaluationPairs) -> tuple[list[Split], list[list[str]]]:
    """The data that the flags name, and the names of its images, which shards do not have."""
    from pipeline.data.corpus.manifest import read_manifest
    from pipeline.data.corpus.splits import split_of_file

    if args.data is not None:
        return read_manifest(args.data).splits(), []
    return [split_of_file(args.annotations, [])], [[name] for name in pairs.names]


def write_json(path: Path, values: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Write a JSON file whole or not at all.

    Raises: ConfigError when it cannot be written.
    """
    try:
        atomic_file.write_json(path, values)
    except OSError as error:
        raise ConfigError(f"--out {path} cannot be written: {error.strerror}", "name another file") from error


def table(metrics: dict[str, Any]) -> str:
    """The recalls as a table."""
    head = f"{'recall, %':24}" + "".join(f"{f'{way} @{at}':>9}" for way in ("i2t", "t2i") for at in (1, 5, 10))
    lines = [f"{metrics['num_images']} images, {metrics['num_texts']} texts, k_test {metrics['k_test']}", head]
    for label, prefix in (("re-ranked", ""), ("contrastive only", "itc_"), ("chance", "chance_")):
        values = [metrics[f"{prefix}{way}_recall_at_{at}"] for way in ("i2t", "t2i") for at in (1, 5, 10)]
        lines.append(f"{label:24}" + "".join(f"{value:9.2f}" for value in values))
    return "\n".join(lines)


def accuracies(metrics: dict[str, Any]) -> str:
    """The accuracies as lines."""
    names = [name for name in metrics if name.startswith("accuracy")]
    lines = [f"{metrics['num_entries']} entries"]
    if "first_token_twice" in metrics:
        lines.append(ranking(metrics))
    if not names:
        return "\n".join([*lines, "not every entry has the people's answers: no accuracy"])
    lines += [f"{name.replace('_', ' of '):30}{metrics[name]:7.2f} %" for name in names]
    return "\n".join([*lines, f"{'most frequent answer':30}{metrics['majority']:7.2f} %"])


def ranking(metrics: dict[str, Any]) -> str:
    """How answers of VQA were ranked: each of these moves the score."""
    times = "twice" if metrics["first_token_twice"] else "once"
    return (
        f"best of {metrics['k_test']} of {metrics['num_answers']} candidates, first token counted {times}, "
        f"{metrics['image_size']} px"
    )


def grounded(metrics: dict[str, Any]) -> str:
    """The accuracies of boxes and hottest pixels as lines, with how they were made."""
    proposals = "boxes of --dets" if metrics["dets"] else "boxes of the maps themselves"
    lines = [
        f"{metrics['num_entries']} entries, by {metrics['by']}, layer {metrics['layer']} from 0, {proposals}, "
        f"{metrics['image_size']} px"
    ]
    endings = ["", *(f"_{split}" for split in metrics["splits"])]
    lines += [f"{f'{name}{ending}':30}{metrics[f'{name}{ending}']:7.2f} %" for ending in endings for name in SCORES]
    return "\n".join([*lines, *(f"{name:30}{metrics[name]:7.2f} %" for name in CHANCE if name in metrics)])


SCORES = ("accuracy", "pointing")
CHANCE = ("chance_accuracy", "chance_pointing", "reachable")
