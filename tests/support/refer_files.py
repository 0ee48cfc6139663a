"""Files as REFER has them: `refs(SPLIT_BY).p`, a pickle, and `instances.json` in COCO's format."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def reference(ref_id: int, ann_id: int, image_id: int, split: str, phrases: Sequence[str]) -> dict[str, Any]:
    """One entry of refs(...).p, with the keys of REFER's README."""
    return {
        "ref_id": ref_id,
        "ann_id": ann_id,
        "image_id": image_id,
        "category_id": 1,
        "file_name": f"COCO_train2014_{image_id:012}_{ann_id}.jpg",
        "split": split,
        "sent_ids": list(range(len(phrases))),
        "sentences": [
            {"sent_id": number, "sent": text, "raw": text.upper(), "tokens": text.split()}
            for number, text in enumerate(phrases)
        ],
    }


def instances(boxes: Sequence[tuple[int, int, list[float]]]) -> dict[str, Any]:
    """instances.json of (ann_id, image_id, box)."""
    images = [
        {"id": image_id, "file_name": f"COCO_train2014_{image_id:012}.jpg", "width": 640, "height": 480}
        for image_id in sorted({image_id for _, image_id, _ in boxes})
    ]
    annotations = [
        {"id": ann_id, "image_id": image_id, "bbox": box, "category_id": 1, "segmentation": [[1, 2, 3]]}
        for ann_id, image_id, box in boxes
    ]
    return {"info": {"year": 2015}, "images": images, "annotations": annotations, "categories": [{"id": 1}]}


def write_refer(folder: Path, refs: Mapping[str, Sequence[Any]], *, protocol: int = 2) -> Path:
    """A data set's folder: references by who divided them; each known box begins at its number in x."""
    folder.mkdir(parents=True, exist_ok=True)
    boxes = {}
    for split_by, entries in refs.items():
        (folder / f"refs({split_by}).p").write_bytes(pickle.dumps(list(entries), protocol=protocol))
        for entry in entries:
            if isinstance(entry, dict) and entry["image_id"] < 900 and entry["ann_id"] < 90:
                boxes[entry["ann_id"]] = (entry["ann_id"], entry["image_id"], [entry["ann_id"], 2.5, 30, 40])
    (folder / "instances.json").write_text(json.dumps(instances(list(boxes.values()))))
    return folder
