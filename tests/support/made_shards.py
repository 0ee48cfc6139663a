"""Three small shards that `data_prep` wrote, a copy of them to damage, and what tests do to them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_prep.lists.row_list import ListedImage
from data_prep.output.job import Folder, ImageSettings, Job, write_job
from data_prep.shards.writer import FetchResult, write_shard
from data_prep.stages.verify import Verification, verify_folder
from tests.support.hostile_images import halves, jpeg

SHARDS, ROWS = 3, 4


JOB = Job(
    kind="pack",
    source="made",
    inputs_sha256="0" * 64,
    shard_size=ROWS,
    images=ImageSettings(image_size=64),
    num_rows=SHARDS * ROWS,
)


def write(folder: Folder, shard: int, order: list[int]) -> None:
    """Shard `shard`, answered in `order`; row 1 of the shard fails."""
    rows = {shard * ROWS + i: ListedImage(f"http://a/{i}.jpg", [f"picture {i}"]) for i in range(ROWS)}
    results = [
        FetchResult(shard * ROWS + i, None, "http_404: Not Found")
        if i == 1
        else FetchResult(shard * ROWS + i, jpeg(halves(90 + i, 70, left=(40 * i, 0, 0))), None)
        for i in order
    ]
    write_shard(folder, JOB, shard, rows, results, {"command": "test"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Folder(tmp_path_factory.mktemp("whole"))
    for path in (folder.shards, folder.failures, folder.work):
        path.mkdir()
    for shard in range(SHARDS):
        write(folder, shard, [2, 0, 3, 1])
    write_job(folder, JOB)
    return folder.root


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def verify(root: Path, *, keep_going: bool = False, fraction: float = 1.0) -> Verification:
    with ThreadPoolExecutor(1) as pool:
        return verify_folder(root, pool, 1, keep_going=keep_going, fraction=fraction)


def members(tar: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(tar) as file:
        return [(member.name, file.extractfile(member).read()) for member in file]  # type: ignore[union-attr]


def rewrite(tar: Path, content: list[tuple[str, bytes]]) -> None:
    """Put other members into a shard and make its record agree with the bytes: only the content can show it."""
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    record = json.loads(tar.with_suffix(".json").read_text())
    record["bytes"], record["sha256"] = tar.stat().st_size, hashlib.sha256(tar.read_bytes()).hexdigest()
    tar.with_suffix(".json").write_text(json.dumps(record))


def flip_in_image(tar: Path) -> None:
    content = members(tar)
    flipped = bytearray(content[2][1])
    flipped[len(flipped) // 2] ^= 0x40
    rewrite(tar, [*content[:2], (content[2][0], bytes(flipped)), *content[3:]])
