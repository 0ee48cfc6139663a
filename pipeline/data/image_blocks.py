"""Loads the images of an evaluation, block by block, in threads."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


def loaded_blocks(
    load: Callable[[int], Tensor], blocks: list[range], num_workers: int | None
) -> Iterator[tuple[range, Tensor]]:
    """Each block with its images stacked, while the next one is being loaded.

    Args:
        load: gives image i; is called from threads.
        num_workers: threads; None takes one per core, at most 8.
    """
    pool = ThreadPoolExecutor(num_workers or min(8, os.cpu_count() or 1), thread_name_prefix="images")
    waiting: deque[tuple[range, list[Future[Tensor]]]] = deque()
    try:
        for block in blocks:
            waiting.append((block, [pool.submit(load, image) for image in block]))
            if len(waiting) > 1:
                ready, images = waiting.popleft()
                yield ready, torch.stack([image.result() for image in images])
        while waiting:
            ready, images = waiting.popleft()
            yield ready, torch.stack([image.result() for image in images])
    finally:
        pool.shutdown(cancel_futures=True)
