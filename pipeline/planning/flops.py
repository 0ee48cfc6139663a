"""How much arithmetic a training step is, and how much of it a device can do: the two halves of MFU."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.batch import PretrainBatch
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.objective.queue import FeatureQueue

# Dense bf16 TFLOP/s by the vendor's data sheet, without sparsity.
DATA_SHEET_TFLOPS = {
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 70.0,
    "L4": 121.0,
}


def random_batch(
    config: AlbefConfig, objective: ObjectiveConfig, *, batch_size: int, device: torch.device | str = "cpu"
) -> PretrainBatch:
    """A micro-batch of noise with full-length texts and the expected number of masked tokens; for counting and timing.

    The shapes are those of a real micro-batch whose texts are all `max_text_tokens` long, the costliest case.
    """
    length = objective.max_text_tokens
    num_masked = max(1, round(batch_size * (length - 1) * objective.mlm_probability))
    maskable = torch.arange(batch_size * length).view(batch_size, length)[:, 1:].reshape(-1)
    input_ids = torch.randint(1_000 % config.vocab_size, config.vocab_size, (batch_size, length))
    batch = PretrainBatch(
        image=torch.randn(batch_size, 3, config.image_size, config.image_size),
        input_ids=input_ids,
        attention_mask=torch.ones(batch_size, length, dtype=torch.int64),
        mlm_input_ids=input_ids.clone(),
        mlm_positions=maskable[torch.randperm(len(maskable))[:num_masked]].sort().values,
        mlm_labels=torch.randint(0, config.vocab_size, (num_masked,)),
        negative_draws=torch.rand(2, batch_size, dtype=torch.float64),
    )
    return batch.to(device)


def flops_per_sample(config: AlbefConfig, objective: ObjectiveConfig, *, batch_size: int) -> float:
    """FLOPs of one sample in one training step, student forward and backward and teacher forward, as this code does it.

    Counted by torch's own counter over the real modules on the meta device, so nothing is computed and no formula of
    ours can drift from the model. Elementwise work and the optimizer are not counted, as is usual for MFU.
    """
    with torch.device("meta"):
        student = AlbefForPretraining(config, objective)
    teacher = MomentumTeacher(student, device="meta")
    queue = FeatureQueue(objective.queue_size, config.embed_dim, seed=0, device="meta")
    batch = random_batch(config, objective, batch_size=batch_size, device="meta")
    counter = FlopCounterMode(display=False)
    with counter:
        targets = teacher.targets(batch, queue, student.clamped_temperature().detach())
        student(batch, targets, queue, objective.alpha).total.backward()
    return counter.get_total_flops() / batch_size


def peak_flops(device: torch.device, dtype: torch.dtype) -> tuple[float, str]:
    """FLOP/s the device can do at most, and where the figure is from.

    A known GPU in bf16: the data sheet. Anything else: the best of a few large matrix products, measured here.
    """
    if device.type == "cuda" and dtype in (torch.bfloat16, torch.float16):
        name = torch.cuda.get_device_name(device)
        for known, tflops in DATA_SHEET_TFLOPS.items():
            if known in name:
                return tflops * 1e12, f"data sheet of {known}, dense bf16"
    return _measured_product(device, dtype), f"measured {str(dtype).removeprefix('torch.')} matrix product"


def _measured_product(device: torch.device, dtype: torch.dtype) -> float:
    size = 8_192 if device.type == "cuda" else 1_024
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(6):
        began = time.perf_counter()
        product = left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - began)
    assert product.shape == (size, size)
    return 2 * size**3 / best
