"""Every test in this folder needs a GPU and is marked `gpu`; `make gpu REHEARSE=1` runs them on the CPU instead.

Collecting this folder imports only what training needs: none of the tools of ingestion, no web server, no S3.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

DEVICE = os.environ.get("GPU_TESTS_DEVICE", "cuda")
"""`cpu` in a rehearsal: what is then left unproven is CUDA itself."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them all; pytest passes the items of other folders too."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where these tests run."""
    return torch.device(DEVICE)


@pytest.fixture(autouse=True)
def full_fp32() -> Iterator[None]:
    """Products in fp32 proper; TF32 keeps 10 bits of them."""
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
