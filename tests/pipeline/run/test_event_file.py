"""TensorBoard reads what we write, in the order in which it was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipeline.run.event_file import EventFile


def read(folder: Path) -> EventAccumulator:
    board = EventAccumulator(str(folder))
    board.Reload()
    return board


def test_a_start_after_the_clock_was_set_back_still_comes_last(tmp_path: Path) -> None:
    """TensorBoard reads files by name, and a name begins with the time: steps 3 on are those of the second start."""
    first = EventFile(tmp_path, purge_step=0)
    for step in range(1, 6):
        first.scalars(step, {"loss": step})
    (only,) = tmp_path.iterdir()
    only.rename(tmp_path / only.name.replace(only.name.split(".")[3], "4000000000"))  # written in the year 2096
    second = EventFile(tmp_path, purge_step=3)
    for step in range(3, 6):
        second.scalars(step, {"loss": 10 * step})
    assert [event.value for event in read(tmp_path).Scalars("loss")] == [1, 2, 30, 40, 50]


def test_pictures_and_any_text_of_a_caption_can_be_shown(tmp_path: Path) -> None:
    """JSON can hold half of a surrogate pair, which no encoding of text has."""
    file = EventFile(tmp_path, purge_step=0)
    file.image("samples", np.full((2, 3, 3), 7, dtype=np.uint8), 1)
    file.text("captions", "a cat \ud83d and \x00 \u202e", 1)
    file.close()
    board = read(tmp_path)
    (image,) = board.Images("samples")
    assert (image.height, image.width) == (2, 3)
    (text,) = board.Tensors("captions/text_summary")
    assert text.tensor_proto.string_val == [b"a cat \\ud83d and \x00 \xe2\x80\xae"]
