"""The moving average of many tensors in one Triton launch: a table names where each block of elements lies."""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from albef.kernels.resources import Configuration

BLOCK = 4_096
"""Elements of a program."""
OPTIONS = {"num_warps": 8, "num_stages": 1}
TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


def move(averages: list[Tensor], values: list[Tensor], copies: list[Tensor], weight: float) -> None:
    """See `moving_average.move_averages`: fp32 averages, one type of values and one of copies, all contiguous."""
    columns = [averages, values, copies or averages]
    table = _table(
        tuple(tuple(tensor.data_ptr() for tensor in tensors) for tensors in columns),
        tuple(tuple(tensor.element_size() for tensor in tensors[:1]) for tensors in columns),
        tuple(tensor.numel() for tensor in averages),
        averages[0].device,
    )
    move_kernel[(len(table),)](
        table,
        weight,
        VALUE=TYPES[values[0].dtype],
        COPY=TYPES[copies[0].dtype] if copies else None,
        BLOCK=BLOCK,
        **OPTIONS,
    )


@lru_cache(maxsize=2)
def _table(
    addresses: tuple[tuple[int, ...], ...], widths: tuple[tuple[int], ...], sizes: tuple[int, ...], device: torch.device
) -> Tensor:
    """(blocks, 4) int64: addresses of a block of average, value and copy, and the number of its elements.

    Parameters stay where they are for a whole run, so it is made once.
    """
    lengths = torch.tensor(sizes)
    blocks = (lengths + BLOCK - 1) // BLOCK
    first = torch.cat([torch.zeros(1, dtype=torch.int64), blocks.cumsum(0)[:-1]])
    tensor = torch.repeat_interleave(torch.arange(len(sizes)), blocks)
    start = (torch.arange(len(tensor)) - first[tensor]) * BLOCK  # of the block in its tensor
    places = [torch.tensor(column)[tensor] + start * width for column, (width,) in zip(addresses, widths, strict=True)]
    return torch.stack([*places, (lengths[tensor] - start).clamp(max=BLOCK)], dim=1).to(device)


@triton.jit
def move_kernel(table, weight, VALUE: tl.constexpr, COPY: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One block of one tensor; COPY is None where there are no copies."""
    row = table + tl.program_id(0).to(tl.int64) * 4
    lanes = tl.arange(0, BLOCK)
    inside = lanes < tl.load(row + 3)
    averages = tl.load(row).to(tl.pointer_type(tl.float32)) + lanes
    values = tl.load(row + 1).to(tl.pointer_type(VALUE)) + lanes
    average = tl.load(averages, mask=inside, other=0.0)
    value = tl.load(values, mask=inside, other=0.0).to(tl.float32)
    average += weight * (value - average)
    tl.store(averages, average, mask=inside)
    if COPY is not None:
        copies = tl.load(row + 2).to(tl.pointer_type(COPY)) + lanes
        tl.store(copies, average.to(COPY), mask=inside)


def configurations() -> list[Configuration]:
    """A bf16 student with a bf16 copy, and an fp32 one without."""
    signature = {"table": "*i64", "weight": "fp32"}
    types = {"bf16": (tl.bfloat16, tl.bfloat16), "fp32": (tl.float32, None)}
    return [
        Configuration(
            name=f"move_averages_{name}",
            kernel=move_kernel,
            signature=signature,
            constants={"VALUE": value, "COPY": copy, "BLOCK": BLOCK},
            options=OPTIONS,
        )
        for name, (value, copy) in types.items()
    ]
