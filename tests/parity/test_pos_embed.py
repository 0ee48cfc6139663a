"""Resizing of position embeddings against the recorded official function."""

from __future__ import annotations

import pytest
import torch

from albef.weights.position_embedding import resize_position_embedding
from tests.parity import goldens

GOLDEN = goldens.load("pos_embed")
CASES = sorted({key.split("/")[0] for key in GOLDEN.tensors})


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_grids_are_resized_as_recorded(case: str, dtype: torch.dtype) -> None:
    """1e-9 in float64; in float32 a few units of rounding, since bicubic sums sixteen products in another order."""
    recorded = GOLDEN[f"{case}/out_fp64" if dtype == torch.float64 else f"{case}/out_fp32"]
    size = max(1.0, float(recorded.abs().max()))
    tolerance = goldens.EXACT * size if dtype == torch.float64 else 8 * torch.finfo(dtype).eps * size
    before = GOLDEN[f"{case}/in"].to(dtype)
    after = resize_position_embedding(before, recorded.shape[1] - 1)
    assert after.dtype == dtype
    goldens.check(case, after, recorded, tolerance)
    assert torch.equal(after[:, 0], before[:, 0]), "the class token's position is copied"
