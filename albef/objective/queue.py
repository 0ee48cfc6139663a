"""The ring of earlier teacher features, and the all-gather that fills it the same on every rank."""

# Q queue, E embedding, B micro-batch, n rows gathered by one rank in a step

from __future__ import annotations

from collections import Counter

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from albef.errors import CheckpointError

BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
NO_ID = -100
"""Of the random rows that a queue starts with: no image has it."""


class FeatureQueue:
    """The newest `size` teacher features of each modality: extra candidates of the contrastive loss.

    Kept outside the engine, because DeepSpeed neither broadcasts buffers nor keeps them in fp32. Every rank holds the
    same rows: they start from one seed and receive the same gathered features.

    Args:
        size: rows per modality, Q, any number: the queue is a ring and accepts batches of any size.
        embed_dim: E.
        seed: seed of the initial, random rows; the same on every rank.
        device: device of the rows; the initial ones are drawn on the CPU, so they do not depend on it.
        dtype: type of the rows: fp32, or float64 for parity.
        with_ids: keep the number of each pair's image too: several texts of one image are then its positives.
    """

    def __init__(
        self,
        size: int,
        embed_dim: int,
        *,
        seed: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        with_ids: bool = False,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        rows = F.normalize(torch.randn(2, size, embed_dim, generator=generator), dim=-1)
        self.image, self.text = rows.to(device=device, dtype=dtype, copy=True).unbind()
        """(Q, E) each, L2-normalised rows; row i of both came from one pair."""
        self.ids = torch.full((size,), NO_ID, device=device) if with_ids else None
        """(Q,) int64, the image of each row's pair; None where the partner is the only positive."""
        self.pointer = 0
        """Index of the oldest row, which is overwritten next."""
        self._lanes: list[Tensor] = []
        self._gathered: Tensor | None = None
        self._work: dist.Work | None = None

    @property
    def size(self) -> int:
        """Q."""
        return self.image.shape[0]

    def gather(self, image_feat: Tensor, text_feat: Tensor, ids: Tensor | None = None, *, num_lanes: int = 1) -> None:
        """Add the teacher features of one lane, (B, E) each, and the (B,) ids of their images in a queue with ids; call
        it once per lane of this rank.

        The last of `num_lanes` starts one asynchronous all-gather of all lanes and both modalities, which overlaps with
        the computation until `enqueue`. Without a process group nothing is sent.
        """
        assert self._gathered is None, "gather() of a new step before enqueue() or discard() of the last"
        assert (ids is None) == (self.ids is None), "ids for a queue without, or none for a queue with ids"
        lane = torch.cat([image_feat.detach(), text_feat.detach()], dim=1).to(self.image)  # (B, 2E)
        if ids is not None:  # their bits as further columns: one collective moves all
            lane = torch.cat([lane, ids.view(-1, 1).view(lane.dtype)], dim=1)
        self._lanes.append(lane)
        if len(self._lanes) < num_lanes:
            return
        mine = torch.cat(self._lanes)  # (n, 2E), and the bits of the ids
        self._lanes = []
        if _world_size() == 1:
            self._gathered = mine
            return
        self._gathered = mine.new_empty(_world_size() * mine.shape[0], mine.shape[1])
        self._work = dist.all_gather_into_tensor(self._gathered, mine, async_op=True)

    def enqueue(self) -> None:
        """Wait for the gathered features and write them over the oldest rows: rank-major, then the rank's lanes.

        If there are more rows than the queue holds, the newest are kept.
        """
        assert self._gathered is not None, "enqueue() before the last lane was gathered"
        rows = self._finish()
        end = self.pointer + rows.shape[0]
        rows = rows[max(0, rows.shape[0] - self.size) :]
        while rows.shape[0]:  # once, or twice when it wraps
            start = (end - rows.shape[0]) % self.size
            count = min(rows.shape[0], self.size - start)
            width = self.image.shape[1]
            self.image[start : start + count] = rows[:count, :width]
            self.text[start : start + count] = rows[:count, width : 2 * width]
            if self.ids is not None:
                bits = rows[:count, 2 * width :].contiguous()
                self.ids[start : start + count] = bits.view(torch.int64).squeeze(1)
            rows = rows[count:]
        self.pointer = end % self.size if self.size else 0

    def discard(self) -> None:
        """Wait for the gathered features and drop them: the step was skipped."""
        self._lanes = []
        self._finish()

    def _finish(self) -> Tensor:
        if self._work is not None:
            self._work.wait()
        rows = self.image.new_empty(0, 2 * self.image.shape[1]) if self._gathered is None else self._gathered
        self._gathered, self._work = None, None
        return rows

    def checksum(self) -> Tensor:
        """(n,) int64 of images, texts, ids if it has them, and pointer: equal for queues with equal bits, almost never
        otherwise."""
        positions = torch.arange(1, self.size + 1, device=self.image.device)
        sums = [
            (rows.view(BITS[rows.element_size()]).sum(dim=1, dtype=torch.int64) * positions).sum()
            for rows in (self.image, self.text)
        ]
        if self.ids is not None:
            sums.append((self.ids * positions).sum())
        return torch.stack([*sums, torch.tensor(self.pointer, device=self.image.device)])

    def assert_equal_across_ranks(self) -> None:
        """Compare checksums across ranks; a collective. The host waits for the device, so do not call it in every step.

        Raises:
            RuntimeError: on every rank, naming the ranks whose queue differs from that of most ranks.
        """
        if _world_size() == 1:
            return
        mine = self.checksum()
        everyones = mine.new_empty(_world_size() * mine.shape[0])
        dist.all_gather_into_tensor(everyones, mine)
        sums = [tuple(row) for row in everyones.view(-1, mine.shape[0]).tolist()]
        usual = Counter(sums).most_common(1)[0][0]
        different = [rank for rank, row in enumerate(sums) if row != usual]
        if different:
            raise RuntimeError(f"feature queues differ: ranks {different} of {len(sums)} are not like the others")

    def state_dict(self) -> dict[str, Tensor | int]:
        """Copies of the rows, of the ids if it has them, and the pointer.

        Call it between steps: features being gathered are not included.
        """
        rows: dict[str, Tensor | int] = {"image": self.image.clone(), "text": self.text.clone()}
        return rows | ({} if self.ids is None else {"ids": self.ids.clone()}) | {"pointer": self.pointer}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Load the result of `state_dict` to this queue's device and dtype.

        Raises:
            CheckpointError: the state is of another queue size or embedding width, or lacks ids.
        """
        parts = {"image": self.image, "text": self.text} | ({} if self.ids is None else {"ids": self.ids})
        for name, mine in parts.items():
            saved = state.get(name)
            if saved is None:
                raise CheckpointError(f"queue: no {name} saved", "use a checkpoint of the same task")
            assert isinstance(saved, Tensor)
            if saved.shape != mine.shape:
                raise CheckpointError(
                    f"queue: saved {name} are {tuple(saved.shape)}, this run's are {tuple(mine.shape)}",
                    "set objective.queue_size and model.embed_dim to what the checkpoint was trained with",
                )
            mine.copy_(saved)
        self.pointer = int(state["pointer"])
        self.discard()


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
