"""`pipeline import`: an official checkpoint to a folder that `albef.Albef.from_pretrained` and `evaluate` load."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from albef.errors import CheckpointError
from pipeline.checkpoints.layout import digest
from pipeline.export.output_folder import atomic_folder, check_free
from pipeline.run.logs import print_answer

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `import`."""
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="an official checkpoint of pretraining, retrieval or grounding: .pth or .safetensors, wrapped or bare",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--image-size", type=int, metavar="PX", help="resize the position embeddings to this image side (default: keep)"
    )
    parser.add_argument(
        "--max-text-tokens",
        type=int,
        default=30,
        metavar="N",
        help="cut texts to N tokens, [CLS] included (default: 30, as the original evaluates)",
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
        image_size=args.image_size,
        max_text_tokens=args.max_text_tokens,
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
    image_size: int | None = None,
    max_text_tokens: int = 30,
    vision_heads: int | None = None,
    text_heads: int | None = None,
    overwrite: bool = False,
) -> None:
    """Translate an official checkpoint, strictly, and write it as a model folder.

    The folder holds the student. Teacher and queues, which only further pretraining would use, are checked like the
    rest and left out; a checkpoint of retrieval or grounding has no MLM head and gets an untrained one. The model card
    lists both.

    Args:
        file: the checkpoint, wrapped or bare, with or without `_m` keys and queues.
        out: written whole or not at all.
        image_size: side in pixels to resize the position embeddings to; None keeps the checkpoint's.
        max_text_tokens: cut texts to this many tokens, [CLS] included.
        vision_heads, text_heads: attention heads, if they are not one per 64 of width.

    Raises: CheckpointError when the file is missing, damaged or no official checkpoint, or `out` must not be
        overwritten;
        ConfigError when the patches do not divide image_size.
    """
    check_free(out, overwrite=overwrite)
    # torch is imported where it is used, so that `import --help` need not wait for it
    import torch

    from albef.model import AlbefForPretraining
    from albef.pretrained import Albef
    from albef.weights.files import load_strictly
    from albef.weights.official import read_official
    from pipeline.tasks.pretraining.model_card import card_of_official

    found = read_official(file, vision_heads=vision_heads, text_heads=text_heads, image_size=image_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # weights that the checkpoint lacks are the same every time
        model = AlbefForPretraining(found.config)
    has_head = any(name.startswith("mlm_head.") for name in found.student)
    load_strictly(model, found.student, source=str(file), but=() if has_head else ("mlm_head.",))
    notes = [f"position embeddings resized to {image_size} px"] if image_size else []
    notes += [] if has_head else ["the file has no MLM head: this one's is untrained"]
    left_out = [what for what, there in (("momentum teacher", found.teacher), ("queues", found.queue)) if there]
    notes += [f"left out: {' and '.join(left_out)}"] if left_out else []
    with atomic_folder(out, overwrite=overwrite) as folder:
        card = card_of_official(file.name, found.config, _sha256(file), notes)
        Albef(model, max_text_tokens=max_text_tokens).save_pretrained(folder, model_card=card)
    for note in notes:
        log.info("%s", note)
    log.info("imported %s to %s", file, out)


def _sha256(file: Path) -> str:
    try:
        return digest(file)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error.strerror}", "is the disk still there?") from error
