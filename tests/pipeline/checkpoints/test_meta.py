"""meta.json: damage of it is always found, and what earlier versions wrote is still read."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest

from albef.errors import CheckpointError
from pipeline.checkpoints.layout import find_checkpoint, read_meta
from pipeline.checkpoints.meta import step_of, step_tag
from tests.support.checkpoints import published


def as_format_1(folder) -> dict[str, Any]:
    """Rewrite a checkpoint's meta.json as runs before format 2 wrote it: without a checksum."""
    values = json.loads((folder / "meta.json").read_text())
    del values["checksum"]
    values["format"] = 1
    (folder / "meta.json").write_text(json.dumps(values, indent=2) + "\n")
    return values


def test_every_flipped_bit_means_the_checkpoint_before(tmp_path, caplog):
    """Each of some 4,000 bits of a meta.json: never an exception, never the values of another step or layout."""
    caplog.set_level(logging.CRITICAL)
    older = published(tmp_path, 10)
    newer = published(tmp_path, 20)
    path = newer / "meta.json"
    whole = path.read_bytes()
    wanted = (older, read_meta(older))
    taken = {}
    for number in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[number // 8] ^= 1 << number % 8
        path.write_bytes(damaged)
        if find_checkpoint(tmp_path) != wanted:
            taken[number] = bytes(damaged[max(0, number // 8 - 20) : number // 8 + 20])
    assert not taken, f"{len(taken)} of {8 * len(whole)} flips are believed: {list(taken.items())[:3]}"


def test_the_order_and_white_space_of_meta_json_do_not_matter(tmp_path):
    """The checksum is of the values."""
    path = published(tmp_path, 10)
    meta = read_meta(path)
    values = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(dict(reversed(values.items()))))
    assert read_meta(path) == meta


def test_checkpoints_of_earlier_runs_are_read(tmp_path):
    """Format 1 has no checksum; a step that is not the folder's is found all the same."""
    path = published(tmp_path, 12)
    meta = read_meta(path)
    values = as_format_1(path)
    assert read_meta(path).files == meta.files
    (path / "meta.json").write_text(json.dumps(values | {"step": 92}))
    with pytest.raises(CheckpointError, match=r"is of step 92, the folder is of step 12"):
        read_meta(path)


WRONG: dict[str, dict[str, Any]] = {
    "format": {"format": "1"},
    "no format": {"format": True},
    "run_name": {"run_name": 3},
    "created": {"created": None},
    "step is not a count": {"step": 12.0},
    "step is a bool": {"step": True},
    "epoch": {"epoch": -1},
    "world_size": {"world_size": 0},
    "zero_stage": {"zero_stage": "1"},
    "files is a list": {"files": []},
    "no facts": {"files": {"model.pt": None}},
    "size is a text": {"files": {"model.pt": {"bytes": "7", "sha256": "0" * 64}}},
    "size is a bool": {"files": {"model.pt": {"bytes": True, "sha256": "0" * 64}}},
    "no digest": {"files": {"model.pt": {"bytes": 7}}},
    "digest in capitals": {"files": {"model.pt": {"bytes": 7, "sha256": "A" * 64}}},
    "digest is a number": {"files": {"model.pt": {"bytes": 7, "sha256": 7}}},
    "another folder's file": {"files": {"../model.pt": {"bytes": 7, "sha256": "0" * 64}}},
    "a file with a long name of controls": {"files": {"\x1b" * 5000: {"bytes": 7, "sha256": "0" * 64}}},
    "itself": {"files": {"meta.json": {"bytes": 7, "sha256": "0" * 64}}},
    "one key more": {"more": 1},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_value_of_another_type_is_damage(tmp_path, wrong):
    """Format 1, where no checksum finds it first. The message is one short line."""
    path = published(tmp_path, 12)
    values = as_format_1(path)
    (path / "meta.json").write_text(json.dumps(values | WRONG[wrong]))
    with pytest.raises(CheckpointError, match=r"meta\.json is damaged: ") as raised:
        read_meta(path)
    assert len(raised.value.message) < 200 + len(str(path)) and raised.value.message.isprintable()


def test_a_meta_of_a_later_format_is_refused_by_name(tmp_path):
    """A checkpoint of a newer pipeline is not half understood."""
    path = published(tmp_path, 10)
    values = json.loads((path / "meta.json").read_text())
    (path / "meta.json").write_text(json.dumps(values | {"format": 3, "more": 1}))
    with pytest.raises(CheckpointError, match="is of format 3, this version reads formats 1 and 2"):
        read_meta(path)


def test_only_the_names_that_saves_give_are_names_of_steps():
    """Any other is a person's."""
    for step in (0, 1, 99_999_999, 100_000_000, 12_345_678_901):
        assert step_of(step_tag(step)) == step
    for name in (
        "step_1",
        "step_00000001 ",
        "step_00000001\n",
        "step_000000001",
        "step_0000000१",
        "xstep_00000001",
        "",
    ):
        assert step_of(name) is None, name
