"""Small checkpoint folders, and damage of them that their meta.json vouches for."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

from pipeline.checkpoints.layout import new_meta, publish, read_meta


def published(folder: Path, step: int, *, content: bytes = b"weights", created: str | None = None) -> Path:
    """A finished checkpoint of one file in a `checkpoints` folder, which `latest` then names."""
    path = folder / f"step_{step:08d}"
    path.mkdir(parents=True)
    (path / "model.pt").write_bytes(content)
    meta = new_meta(
        run_name="test",
        step=step,
        epoch=0,
        samples_seen=step * 8,
        world_size=1,
        zero_stage=0,
        precision="fp32",
        config_hash="0",
    )
    meta = dataclasses.replace(meta, created=created or meta.created)
    publish(path, dataclasses.replace(meta, files={"model.pt": facts_of(path / "model.pt")}))
    return path


def seal(checkpoint: Path) -> None:
    """Write meta.json again, so that its checksums agree with what a test changed, added or removed."""
    meta = read_meta(checkpoint)
    files = {path.name: facts_of(path) for path in sorted(checkpoint.iterdir()) if path.suffix in (".pt", ".json")}
    files |= {path.name: facts_of(path) for path in checkpoint.glob("*.safetensors")}
    files.pop("meta.json")
    publish(checkpoint, dataclasses.replace(meta, files=files))


def facts_of(file: Path) -> dict[str, int | str]:
    """What meta.json records of a file."""
    data = file.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
