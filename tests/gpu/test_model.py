"""What a GPU makes of a model: the CPU's features and probabilities, the CPU's retrieval."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from albef import Albef
from albef.model import AlbefForPretraining
from pipeline.engine.distributed import World
from pipeline.tasks.retrieval.evaluation import retrieve
from tests.pipeline.tasks.retrieval.test_evaluation import alone, tiny_model, tiny_set
from tests.support.small_model import small_config

TEXTS = ["A Dog on a skateboard!", "two cats, asleep"]


def test_an_exported_model_gives_the_cpus_numbers(tmp_path: Path, device: torch.device) -> None:
    """The same features and probabilities on the GPU, which is taken by default, to fp32 rounding."""
    torch.manual_seed(0)
    model = AlbefForPretraining(small_config())
    Albef(model, max_text_tokens=12).save_pretrained(tmp_path / "model", model_card="# A model\n")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (40 + 9 * i, 50, 3), dtype=np.uint8)) for i in range(2)]
    on_cpu, there = Albef.from_pretrained(tmp_path / "model", device="cpu"), Albef.from_pretrained(tmp_path / "model")
    assert there.device.type == device.type
    assert (there.encode_image(images)[1].cpu() - on_cpu.encode_image(images)[1]).abs().max() < 1e-5
    assert (there.match(images, TEXTS).cpu() - on_cpu.match(images, TEXTS)).abs().max() < 1e-5


@pytest.mark.parametrize("free_bytes", [2**40, 0])
def test_retrieval_finds_what_the_cpu_finds(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, free_bytes: int
) -> None:
    """float64 on both, so the order cannot swap; embeddings kept on the device, and on the host if it has no room."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free_bytes, 2**40))
    world = World(rank=0, local_rank=0, size=1, device=device)
    there = retrieve(tiny_model().to(device), tiny_set(), world=world, k_test=6, batch_size=4)
    on_cpu = retrieve(tiny_model(), tiny_set(), world=alone(), k_test=6, batch_size=4)
    assert there.metrics() == on_cpu.metrics()
    assert torch.allclose(there.i2t_scores, on_cpu.i2t_scores, rtol=0, atol=1e-9)
