"""`data_prep refer`: REFER's files -> the lists of phrases that `pipeline finetune` and `evaluate grounding` take."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from base import atomic_file
from base.errors import UsageError
from data_prep.errors import FolderError
from data_prep.lists.published_file import check_is_file
from data_prep.sources.refer import SPLIT_BY, read_phrases
from samples.json_text import parse_json
from samples.plain_file import read_plain

MAX_RECORD_BYTES = 1 << 20
CHUNK_BYTES = 1 << 20


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the command's flags."""
    parser.add_argument(
        "folder",
        type=Path,
        metavar="FOLDER",
        help="REFER's data/refcoco+ or the like: refs(SPLIT_BY).p, instances.json",
    )
    parser.add_argument("--split-by", choices=SPLIT_BY, required=True, help="who divided the phrases")
    parser.add_argument("--out", type=Path, required=True, metavar="OUT", help="folder of the lists")
    parser.add_argument(
        "--prefix",
        default="train2014/",
        metavar="PATH/",
        help="put before the images' names (train2014/: COCO's folder, from which all of them are)",
    )


def run(flags: argparse.Namespace) -> int:
    """Exit code: 0. Raises: UserError."""
    folder: Path = flags.folder
    refs, instances = folder / f"refs({flags.split_by}).p", folder / "instances.json"
    for path in (refs, instances):
        check_is_file(path, "give a folder of REFER, with this --split-by")
    name = f"{folder.resolve().name}_{flags.split_by}"
    record = flags.out / f"{name}.json"
    inputs = {path.name: _sha256(path) for path in (refs, instances)}
    made = {"dataset": folder.resolve().name, "split_by": flags.split_by, "prefix": flags.prefix, "inputs": inputs}
    _check_same(record, made)
    phrases = read_phrases(refs, instances, prefix=flags.prefix)
    outputs = {}
    try:
        flags.out.mkdir(parents=True, exist_ok=True)
        for split, entries in phrases.lists.items():
            path = flags.out / f"{name}_{split}.json"
            atomic_file.write_text(path, json.dumps(entries, separators=(",", ":")) + "\n")
            outputs[path.name] = _sha256(path)
        counts = {"splits": phrases.counts(), "images_shared_with_train": phrases.shared_images}
        atomic_file.write_json(record, made | {"outputs": outputs} | counts)
    except OSError as error:
        raise UsageError(f"--out {flags.out} cannot be written: {error.strerror}", "name another folder") from error
    for split, numbers in phrases.counts().items():
        print(f"{split}: " + ", ".join(f"{number:,} {what}" for what, number in numbers.items()))
    for split, number in phrases.shared_images.items():
        if number:
            print(f"warning: {number:,} images of {split} are in train too, as `google` divides RefCOCOg")
    print(f"wrote {', '.join(outputs)}; {record.name} has every file's SHA-256")
    return 0


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _check_same(record: Path, made: dict[str, Any]) -> None:
    """Raises: FolderError where another command's lists would be replaced."""
    try:
        earlier = parse_json(read_plain(record, MAX_RECORD_BYTES))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise FolderError(f"{record} cannot be read: {error}", "name another --out") from error
    if not isinstance(earlier, dict) or {key: earlier.get(key) for key in made} != made:
        raise FolderError(f"{record} is of other files, or of another --prefix", "name another --out")
