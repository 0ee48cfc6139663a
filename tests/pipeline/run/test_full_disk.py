"""Training whose run folder lies on a disk that is full or read-only for a while: lines wait, the run does not."""

from __future__ import annotations

import io
import json
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from tests.support.small_disk import MS_RDONLY, fill, mount, run_on_small_disk, unmount
from tests.support.tiny_run import tiny_recipe
from tests.support.wrapped_task import WrappedTask, pretrain_with


def pretrain(
    recipe: Path, run_dir: Path, overrides: list[str], before_step: dict[int, Any] | None = None
) -> tuple[str, str]:
    """Train in this process, and do something before some steps. Returns what ended the run, and its console."""
    from base.errors import UserError
    from pipeline.run import logs

    said = io.StringIO()

    def before(_task: Any, _engine: Any, step: int) -> None:
        if (action := (before_step or {}).get(step + 1)) is not None:
            action()

    logs.setup_console()
    for handler in logging.getLogger("pipeline").handlers:
        if isinstance(handler, logs.Console):
            handler.setStream(said)
        else:
            logs.remove(handler)  # of the run before this one
    try:
        return str(pretrain_with(partial(WrappedTask, before=before), recipe, run_dir, overrides)), said.getvalue()
    except UserError as error:
        return f"error: {error.message} hint: {error.hint}", said.getvalue()


def steps_of(path: Path) -> list[int]:
    """Steps of metrics.jsonl, each of whose lines must be JSON."""
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def fill_and_make_room(disk: Path, recipe: Path) -> dict[str, Any]:
    """Twelve steps; the disk is full in steps 3 to 8, and step 6 is to be saved. Then starts on a full disk."""
    run_dir = disk / "run"
    seen: dict[str, Any] = {}

    def make_room() -> None:
        seen["steps while full"] = steps_of(run_dir / "metrics.jsonl")
        (disk / "filler").unlink()

    overrides = [
        "--max_steps=12",
        "--checkpoint.save_every=6",
        "--logging.tensorboard=true",
        "--logging.images_every=4",
    ]
    seen["end"], seen["console"] = pretrain(recipe, run_dir, overrides, {3: lambda: fill(disk), 9: make_room})
    seen["steps"] = steps_of(run_dir / "metrics.jsonl")
    seen["log"] = (run_dir / "logs" / "local" / "rank_0.log").read_text()
    shutil.copytree(run_dir / "tensorboard", recipe.parent / "tensorboard")
    before = {path: path.read_bytes() for path in run_dir.rglob("*") if path.is_file()}
    fill(disk)
    seen["resumed"] = pretrain(recipe, run_dir, ["--max_steps=14"])[0]
    seen["new"] = pretrain(recipe, disk / "new", [])[0]
    seen["changed"] = [str(path) for path, content in before.items() if path.read_bytes() != content]
    return seen


def test_a_full_disk_costs_no_line_when_there_is_room_again(tmp_path: Path) -> None:
    """metrics.jsonl is whole lines while the disk is full and has them all in the end; so has TensorBoard, so has the
    log. Each is reported once. On a full disk nothing is started or resumed, and nothing of the run changes."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = tiny_recipe(tmp_path)
    seen = run_on_small_disk(fill_and_make_room, tmp_path / "disk", recipe, mib=60)
    assert seen["end"] == "0", seen["console"]
    while_full = seen["steps while full"]
    assert while_full == list(range(1, len(while_full) + 1)) and 2 <= len(while_full) < 8
    assert seen["steps"] == list(range(1, 13))
    for name in ("metrics.jsonl", "tfevents"):  # the log's last page has room for its few lines
        for what in ("cannot be written: No space left on device", "can be written again"):
            found = [line for line in seen["console"].splitlines() if name in line and what in line]
            assert len(found) == 1, (name, what, seen["console"])
    assert "step_00000006 could not be saved" in seen["console"]
    for step in range(1, 13):
        assert seen["log"].count(f"step {step}/12 ") == 1, seen["log"]
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0})
    board.Reload()
    assert [event.step for event in board.Scalars("train/loss")] == list(range(1, 13))
    assert [event.step for event in board.Images("train/samples")] == [1, 4, 8, 12]
    assert "cannot be written: " in seen["resumed"] and "make room there" in seen["resumed"]
    assert "cannot be written: " in seen["new"] and "make room there" in seen["new"]
    assert seen["changed"] == []


def lose_the_disk(disk: Path, recipe: Path) -> dict[str, Any]:
    """Nine steps; in steps 3 to 5 something read-only lies over the run folder, and from step 8 on again."""
    run_dir = disk / "run"

    def cover() -> None:
        mount("tmpfs", run_dir, flags=MS_RDONLY)

    overrides = ["--max_steps=9", "--checkpoint.save_every=2", "--checkpoint.asynchronous=false"]
    actions = {3: cover, 6: lambda: unmount(run_dir), 8: cover}
    end, console = pretrain(recipe, run_dir, [*overrides, "--logging.tensorboard=true"], actions)
    unmount(run_dir)
    latest = (run_dir / "checkpoints" / "latest").read_text()
    return {"end": end, "console": console, "steps": steps_of(run_dir / "metrics.jsonl"), "latest": latest}


def test_a_run_folder_that_becomes_read_only_ends_the_run_only_at_its_last_step(tmp_path: Path) -> None:
    """Lines and the saves of steps 4 and 8 meet EROFS and the run continues; the last step is not safe: an error."""
    seen = run_on_small_disk(lose_the_disk, tmp_path / "disk", tiny_recipe(tmp_path), mib=60)
    assert seen["end"].startswith("error: step 9 could not be saved"), seen
    assert seen["latest"] == "step_00000006"
    assert seen["steps"] == list(range(1, 8))
    assert "metrics.jsonl cannot be written: Read-only file system. 2 of its records are lost" in seen["console"]
    for step in (4, 8):
        assert f"step_{step:08d} could not be saved" in seen["console"]
