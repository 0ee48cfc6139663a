"""Reading a checkpoint of pretraining: what is not one, or lacks a part, is named."""

from __future__ import annotations

import pytest

from albef.errors import CheckpointError
from pipeline.checkpoints.layout import read_meta
from pipeline.checkpoints.weights import read_state
from pipeline.tasks.pretraining.weights import read_model_config
from tests.support.checkpoints import published


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        '{"model": []}',
        '{"model": {}, "objective": {"no_such_key": 1}}',
        '{"model": {"patch_size": 0}, "objective": {}}',
        '{"model": {"patch_size": "x"}, "objective": {}}',
        "[" * 100_000,
    ],
)
def test_a_model_config_that_describes_no_model_is_refused(tmp_path, text):
    """Though its checksum agrees."""
    (tmp_path / "model_config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model_config\.json cannot be read: "):
        read_model_config(tmp_path)


def test_a_part_that_the_checkpoint_does_not_list_is_named(tmp_path):
    """A file that somebody put there, whose content no checksum covers, is not taken for it."""
    checkpoint = published(tmp_path / "checkpoints", 2)
    meta = read_meta(checkpoint)
    (checkpoint / "queue.safetensors").write_bytes(b"of another run")
    with pytest.raises(CheckpointError, match="step_00000002 holds no teacher and no queue"):
        read_state(checkpoint, meta, ("teacher", "queue"))
