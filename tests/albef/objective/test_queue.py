"""The feature queue against a plain list of rows, alone and across ranks."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from albef.errors import CheckpointError
from albef.objective.queue import FeatureQueue
from tests.support.ranks import run_ranks


def rows(start: int, count: int, width: int = 2) -> tuple[Tensor, Tensor]:
    """Recognisable features: image rows are all their number, text rows its negative."""
    image = torch.arange(start, start + count, dtype=torch.float32)[:, None].expand(count, width)
    return image, -image


def write(queue: FeatureQueue, start: int, count: int) -> None:
    queue.gather(*rows(start, count))
    queue.enqueue()


@pytest.mark.parametrize("size", [1, 5, 6, 16, 17])
@pytest.mark.parametrize("batch", [1, 4, 6, 40])
def test_ring_is_a_list_written_modulo_its_size(size: int, batch: int) -> None:
    """For all sizes, row i goes to place i modulo the queue's size: the newest remain, also of one huge batch."""
    queue = FeatureQueue(size, 2, seed=0)
    expected = queue.image[:, 0].tolist()
    for step in range(9):
        write(queue, 100 + step * batch, batch)
        for i in range(batch):
            expected[(step * batch + i) % size] = 100.0 + step * batch + i
        assert queue.image[:, 0].tolist() == expected, f"step {step}"
        assert torch.equal(queue.text[-size:], -queue.image) or step * batch + batch < size
        assert queue.pointer == (step + 1) * batch % size


def test_starts_equal_and_normalised_from_one_seed() -> None:
    """The seed alone decides the first rows, and torch's global generator does not."""
    torch.manual_seed(1)
    first = FeatureQueue(8, 16, seed=3)
    torch.manual_seed(2)
    again, other = FeatureQueue(8, 16, seed=3), FeatureQueue(8, 16, seed=4)
    assert torch.equal(first.image, again.image) and torch.equal(first.text, again.text)
    assert not torch.equal(first.image, other.image) and not torch.equal(first.image, first.text)
    assert torch.allclose(first.image.norm(dim=1), torch.ones(8))
    assert FeatureQueue(8, 16, seed=3, dtype=torch.float64).image.dtype == torch.float64


def test_lanes_are_written_together_in_order() -> None:
    """Nothing changes until the last lane has come and enqueue is called; then lane 0's rows precede lane 1's."""
    queue = FeatureQueue(8, 2, seed=0)
    before = queue.image.clone()
    queue.gather(*rows(10, 2), num_lanes=2)
    with pytest.raises(AssertionError, match="last lane"):
        queue.enqueue()
    queue.gather(*rows(20, 2), num_lanes=2)
    assert torch.equal(queue.image, before)
    queue.enqueue()
    assert queue.image[:4, 0].tolist() == [10, 11, 20, 21] and torch.equal(queue.image[4:], before[4:])


def test_gathered_features_are_a_copy_in_the_queues_precision() -> None:
    """bf16 features that are overwritten after the call do not change what is enqueued; no gradient is kept."""
    queue = FeatureQueue(4, 2, seed=0)
    image = torch.full((2, 2), 0.5, dtype=torch.bfloat16, requires_grad=True)
    queue.gather(image, image)
    with torch.no_grad():
        image.fill_(9)
    queue.enqueue()
    assert queue.image[:2].tolist() == [[0.5, 0.5]] * 2 and not queue.image.requires_grad


def test_discard_forgets_a_skipped_step() -> None:
    """After a skipped step, complete or not, the queue is as before and takes the next step."""
    queue = FeatureQueue(4, 2, seed=0)
    before = queue.image.clone()
    queue.gather(*rows(1, 2))
    queue.discard()
    queue.gather(*rows(1, 2), num_lanes=2)
    queue.discard()
    assert torch.equal(queue.image, before) and queue.pointer == 0
    write(queue, 7, 1)
    assert queue.image[0].tolist() == [7, 7]


def test_no_queue_is_a_queue_of_size_zero() -> None:
    """The ablation without a queue needs no other code."""
    queue = FeatureQueue(0, 2, seed=0)
    write(queue, 1, 3)
    assert queue.image.shape == (0, 2) and queue.pointer == 0


def test_state_comes_back_to_the_bit() -> None:
    """A restored queue continues as the saved one would; the saved state does not change with its queue."""
    queue, restored = FeatureQueue(5, 2, seed=0), FeatureQueue(5, 2, seed=9)
    write(queue, 1, 3)
    state = queue.state_dict()
    write(queue, 4, 3)
    restored.load_state_dict(state)
    assert restored.pointer == 3
    write(restored, 4, 3)
    assert torch.equal(queue.image, restored.image) and torch.equal(queue.text, restored.text)
    assert torch.equal(queue.checksum(), restored.checksum())


def test_state_of_another_size_is_refused() -> None:
    """The error names both sizes and the recipe keys."""
    with pytest.raises(CheckpointError, match=r"\(5, 2\).*\(6, 2\).*queue_size"):
        FeatureQueue(6, 2, seed=0).load_state_dict(FeatureQueue(5, 2, seed=0).state_dict())


def test_checksum_sees_one_bit_one_swap_and_the_pointer() -> None:
    """Every kind of divergence changes it, in both dtypes."""
    for dtype in (torch.float32, torch.float64):
        queue = FeatureQueue(6, 4, seed=0, dtype=dtype)
        seen = {tuple(queue.checksum().tolist())}
        queue.text[3, 1] = queue.text[3, 1].nextafter(torch.tensor(9.0, dtype=dtype))
        seen.add(tuple(queue.checksum().tolist()))
        queue.image[[0, 1]] = queue.image[[1, 0]]
        seen.add(tuple(queue.checksum().tolist()))
        queue.pointer = 1
        seen.add(tuple(queue.checksum().tolist()))
        assert len(seen) == 4


def test_two_ranks_fill_equal_queues() -> None:
    """Five steps of two lanes on each of two ranks into a ring of 7: rank 0's lanes first, the same rows on both."""
    for queue_rows, pointer in run_ranks(_fill, 2):
        expected: list[float] = [0] * 7
        for place, value in enumerate(
            100.0 * step + 10 * lane + i for step in range(5) for lane in range(4) for i in range(3)
        ):
            expected[place % 7] = value
        assert queue_rows == expected and pointer == 60 % 7


def _fill(rank: int, world_size: int) -> tuple[list[float], int]:
    queue = FeatureQueue(7, 2, seed=0)
    for step in range(5):
        for lane in (2 * rank, 2 * rank + 1):
            queue.gather(*rows(100 * step + 10 * lane, 3), num_lanes=2)
        queue.enqueue()
        queue.assert_equal_across_ranks()
    queue.gather(*rows(999, 1))
    queue.discard()
    assert torch.equal(queue.text, -queue.image)
    return queue.image[:, 0].tolist(), queue.pointer


def test_ids_travel_with_their_rows() -> None:
    """Three steps of two ranks into a ring of 7, ids beyond 32 bits: each id stays beside its features."""
    assert run_ranks(_fill_with_ids, 2) == [[14, 15, 16, 17, 11, 12, 13]] * 2


def _fill_with_ids(rank: int, world_size: int) -> list[int]:
    far = 1 << 40
    queue = FeatureQueue(7, 2, seed=0, with_ids=True)
    assert queue.ids is not None and queue.ids.tolist() == [-100] * 7
    for step in range(3):
        start = 6 * step + 3 * rank
        queue.gather(*rows(start, 3), torch.arange(start, start + 3) + far)
        queue.enqueue()
        queue.assert_equal_across_ranks()
    ids = [number - far for number in queue.ids.tolist()]
    assert ids == queue.image[:, 0].tolist() == (-queue.text[:, 0]).tolist()
    other = FeatureQueue(7, 2, seed=0, with_ids=True)
    other.load_state_dict(queue.state_dict())
    assert torch.equal(other.checksum(), queue.checksum())
    other.ids[3] += 1  # type: ignore[index]
    assert not torch.equal(other.checksum(), queue.checksum())
    with pytest.raises(CheckpointError, match="no ids"):
        other.load_state_dict(FeatureQueue(7, 2, seed=0).state_dict())
    return ids


def test_one_collective_a_step() -> None:
    """Both modalities and all lanes travel in one all-gather, and it has been launched when gather returns."""
    assert run_ranks(_count_collectives, 2) == [(1, True), (1, True)]


def _count_collectives(rank: int, world_size: int) -> tuple[int, bool]:
    with mock.patch.object(dist, "all_gather_into_tensor", wraps=dist.all_gather_into_tensor) as calls:
        queue = FeatureQueue(8, 2, seed=0)
        queue.gather(*rows(0, 2), num_lanes=2)
        queue.gather(*rows(2, 2), num_lanes=2)
        launched = calls.call_count
        queue.enqueue()
        assert calls.call_count == launched
        return launched, all(call.kwargs["async_op"] for call in calls.call_args_list)


def test_a_rank_that_differs_is_named() -> None:
    """Of three ranks the one whose queue changed by one bit is named, on every rank."""
    assert run_ranks(_diverge, 3) == ["feature queues differ: ranks [1] of 3 are not like the others"] * 3


def _diverge(rank: int, world_size: int) -> str:
    queue = FeatureQueue(8, 2, seed=0)
    queue.assert_equal_across_ranks()
    if rank == 1:
        queue.image[5, 1] = queue.image[5, 1].nextafter(torch.tensor(9.0))
    try:
        queue.assert_equal_across_ranks()
    except RuntimeError as error:
        return str(error)
    return "no error"
