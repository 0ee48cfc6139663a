"""Writes a world: pictures in a zip or a folder, annotation files, the truth, and the datasheet."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from base.errors import UserError
from demo.world.datasheet import datasheet
from demo.world.drawing import draw
from demo.world.scenes import World
from demo.world.tasks import annotation_files, truth

EPOCH = (1980, 1, 1, 0, 0, 0)
"""The date of every picture in the zip."""


def write_world(world: World, out: Path, *, as_zip: bool = True, url_root: str | None = None) -> None:
    """Write a new folder, which appears only when it is whole.

    Args:
        out: must not exist.
        as_zip: pictures in `images.zip` instead of the folder `images/`.
        url_root: also write `lists/`, in which a picture's URL is this and its name.

    Raises: UserError when `out` exists or cannot be made.
    """
    if out.exists():
        raise UserError(f"{out} exists", "remove it, or give another folder")
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        (partial / "annotations").mkdir(parents=True)
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}", "give a folder that can be made") from None
    files = dict(annotation_files(world))
    pixels = _write_images(world, partial, as_zip)
    contents = {f"annotations/{name}.json": _json_text(content) for name, content in files.items()}
    contents["scenes.jsonl"] = "".join(json.dumps(row) + "\n" for row in truth(world))
    digest = hashlib.sha256(pixels.encode() + "".join(contents.values()).encode()).hexdigest()
    contents["README.md"] = datasheet(world, files, images="images.zip" if as_zip else "images/", digest=digest)
    if url_root is not None:
        (partial / "lists").mkdir()
        contents |= _lists(files, url_root)
    for name, text in contents.items():
        (partial / name).write_text(text, encoding="utf-8")
    os.replace(partial, out)


def _json_text(content: Any) -> str:
    """A row a line, so that `head` shows what a file is."""
    if isinstance(content, list):
        return "[\n" + ",\n".join(map(json.dumps, content)) + "\n]\n"
    return json.dumps(content) + "\n"


def _write_images(world: World, out: Path, as_zip: bool) -> str:
    """Draw and write all; returns the SHA-256 of all pixels, in the order of the scenes.

    PNG: the pixels are the same everywhere. The bytes of the file depend on the version of zlib.
    """
    seen = hashlib.sha256()
    archive = zipfile.ZipFile(out / "images.zip", "w", zipfile.ZIP_STORED) if as_zip else None
    for scenes in (*world.scenes.values(), *world.veiled.values()):
        for scene in scenes:
            picture = draw(scene, world.settings.side)
            seen.update(picture.tobytes())
            data = io.BytesIO()
            picture.save(data, "PNG")
            if archive is not None:
                archive.writestr(zipfile.ZipInfo(scene.image, EPOCH), data.getvalue())
            else:
                path = out / "images" / scene.image
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data.getvalue())
    if archive is not None:
        archive.close()
    return seen.hexdigest()


def _lists(files: dict[str, Any], url_root: str) -> dict[str, str]:
    """For each split the list that `data_prep download` takes, and one of first captions for img2dataset alone."""
    rows = {"train": files["pretrain_train"], **{s: files[f"retrieval_{s}"] for s in ("val", "test", "test_new")}}
    return {
        f"lists/{split}.{kind}": write(of_split, url_root)
        for split, of_split in rows.items()
        for kind, write in (("jsonl", url_list), ("tsv", _tsv))
    }


def url_list(rows: Sequence[dict[str, Any]], url_root: str) -> str:
    """JSON Lines of URL and captions.

    Args:
        rows: of `pretrain_train`, or of the retrieval of another split.
        url_root: where the pictures are served, such as `http://127.0.0.1:8000/pictures`.
    """
    return "".join(json.dumps({"url": f"{url_root}/{row['image']}", "caption": row["caption"]}) + "\n" for row in rows)


def _tsv(rows: Sequence[dict[str, Any]], url_root: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow(("url", "caption"))
    writer.writerows((f"{url_root}/{row['image']}", row["caption"][0]) for row in rows)
    return text.getvalue()
