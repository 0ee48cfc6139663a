"""A step of retrieval, with several texts of one image, against the tensors recorded from the official code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from albef.config import RetrievalConfig
from albef.downstream.retrieval import AlbefForRetrieval, RetrievalTeacher
from albef.inputs.retrieval_batch import RetrievalBatch
from albef.kernels.itc import itc_loss
from albef.objective.losses import contrastive_logits
from albef.objective.negatives import negative_weights
from albef.objective.queue import FeatureQueue
from albef.weights.official import from_official, official_names
from tests.parity import goldens

GOLDEN = goldens.load("retrieval_tiny")
DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


def build(
    dtype: torch.dtype, *, distill: bool = True
) -> tuple[AlbefForRetrieval, RetrievalTeacher, FeatureQueue, RetrievalBatch]:
    """Student in eval mode, teacher after the update that the original begins with, and queue, as recorded."""
    config = goldens.model_config(GOLDEN)
    weights = from_official(GOLDEN.under("state/"), vision_heads=config.vision_heads, text_heads=config.text_heads)
    assert weights.teacher is not None and weights.queue is not None
    recorded = GOLDEN.info["config"]
    objective = RetrievalConfig(distill=distill, **{key: recorded[key] for key in ("alpha", "momentum", "queue_size")})
    student = AlbefForRetrieval(weights.config, objective)
    student.load_state_dict(weights.student)
    student.to(dtype).eval()
    teacher = RetrievalTeacher(student, device="cpu", compute_dtype=dtype)
    teacher.load_state_dict(weights.teacher)
    teacher.update(student)
    queue = FeatureQueue(objective.queue_size, config.embed_dim, seed=0, dtype=dtype, with_ids=True)
    queue.load_state_dict(dict(weights.queue))
    batch = RetrievalBatch(
        image=GOLDEN["in/image"].to(dtype),
        input_ids=GOLDEN["in/input_ids"],
        attention_mask=GOLDEN["in/attention_mask"],
        image_ids=GOLDEN["in/idx"],
        negative_draws=torch.full((2, len(GOLDEN["in/idx"])), torch.nan, dtype=torch.float64),  # they are injected
    )
    return student, teacher, queue, batch


def check(key: str, ours: Tensor, dtype: torch.dtype) -> None:
    recorded = GOLDEN[key]
    goldens.check(key, ours.view(recorded.shape), recorded, goldens.tolerance(GOLDEN, key, recorded, dtype))


@DTYPES
def test_features_similarities_and_targets(dtype: torch.dtype) -> None:
    """Of student and teacher; positives by id in batch and queue; the mixed targets and both directions' losses."""
    student, teacher, queue, batch = build(dtype)
    targets = teacher.targets(batch)
    check("out/image_feat_m", targets.image_feat, dtype)
    check("out/text_feat_m", targets.text_feat, dtype)
    image_feat, text_feat = (
        student.encode_image(batch.image)[1],
        student.encode_text(batch.input_ids, batch.attention_mask)[1],
    )
    assert queue.ids is not None
    numbers = torch.cat([batch.image_ids, queue.ids])
    assert torch.equal(numbers[None], GOLDEN["out/idx_all"])
    positives = (batch.image_ids[:, None] == numbers).float()
    assert torch.equal(positives, GOLDEN["out/pos_idx"])
    assert (positives.sum(dim=1) > 1).any(), "no row has several positives"
    hard = positives / positives.sum(dim=1, keepdim=True)
    check("out/sim_targets", hard, dtype)
    recorded_alpha = torch.tensor(student.objective.alpha, dtype=torch.float64)
    for way, feat, own, partner, keys in (
        ("i2t", image_feat, targets.image_feat, targets.text_feat, queue.text),
        ("t2i", text_feat, targets.text_feat, targets.image_feat, queue.image),
    ):
        sim = contrastive_logits(feat, partner, keys, student.temperature)
        sim_m = contrastive_logits(own, partner, keys, student.temperature)
        check(f"out/sim_{way}", sim, dtype)
        check(f"out/sim_{way}_m", sim_m, dtype)
        weights, valid = negative_weights(sim[:, : len(feat)], batch.image_ids[:, None] != batch.image_ids)
        recorded = GOLDEN[f"out/weights_{way}"]
        assert valid.all()
        check(f"out/weights_{way}", weights.double() * recorded.sum(dim=1, keepdim=True), dtype)
        for alpha, where in ((recorded_alpha, "alpha/out"), (torch.zeros_like(recorded_alpha), "alpha0/out")):
            soft = alpha * sim_m.softmax(dim=1) + (1 - alpha).float() * hard  # the original's hard targets are fp32
            check(f"{where}/sim_{way}_targets", soft, dtype)
            ids = (batch.image_ids, queue.ids)
            loss = itc_loss(feat, partner, keys, student.temperature, teacher=own, alpha=alpha, ids=ids).rows.mean()
            check(f"{where}/loss_{way}", loss, dtype)
        plain = itc_loss(feat, partner, keys, student.temperature, ids=(batch.image_ids, queue.ids)).rows.mean()
        check(f"nodistill/out/loss_{way}", plain, dtype)


@DTYPES
def test_losses_gradients_teacher_and_queue(dtype: torch.dtype) -> None:
    """What the forward returns at alpha, at 0 and without distillation; every gradient; averages; the ring with ids."""
    student, teacher, queue, batch = build(dtype)
    targets = teacher.targets(batch)
    negatives = (GOLDEN["inj/neg_image_idx"], GOLDEN["inj/neg_text_idx"])
    alpha = torch.tensor(student.objective.alpha, dtype=torch.float64)
    plain = build(dtype, distill=False)[0]
    for model, weight, where in (
        (student, torch.zeros_like(alpha), "alpha0/out"),
        (plain, alpha, "nodistill/out"),
        (student, alpha, "alpha/out"),
    ):
        output = model(batch, targets, queue, weight, negative_indices=negatives)
        check(f"{where}/loss_ita", output.itc, dtype)
        check(f"{where}/loss_itm", output.itm, dtype)
    check("out/image_feat", output.image_feat, dtype)
    check("out/text_feat", output.text_feat, dtype)
    check("out/itm_logits", output.itm_logits, dtype)
    size = len(batch.image)
    for way, sim in (("i2t", output.sim_i2t), ("t2i", output.sim_t2i)):
        key = f"out/sim_{way}"
        goldens.check(key, sim, GOLDEN[key][:, :size], goldens.tolerance(GOLDEN, key, GOLDEN[key], dtype))
    text_embeds = student.text_encoder(batch.input_ids, batch.attention_mask)
    fused = student.multimodal_encoder(text_embeds, batch.attention_mask, student.image_encoder(batch.image))
    key = "out/fused_pos"
    goldens.check(
        key, fused, GOLDEN[key], goldens.tolerance(GOLDEN, key, GOLDEN[key], dtype), mask=batch.attention_mask
    )

    output.total.backward()
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    names = official_names(student.state_dict())
    assert set(names.values()) == GOLDEN.under("grad/").keys() and set(names) == set(gradients)
    for ours, official in names.items():
        gradient = gradients[ours]
        assert gradient is not None, ours
        check(f"grad/{official}", gradient, dtype)
    averaged = teacher.state_dict()
    names = official_names(student.state_dict(), teacher=True)
    assert set(names.values()) == GOLDEN.under("post_m/").keys() and set(names) == set(averaged)
    for ours, official in names.items():
        check(f"post_m/{official}", averaged[ours], dtype)

    queue.gather(targets.image_feat, targets.text_feat, batch.image_ids)
    queue.enqueue()
    check("post/image_queue", queue.image.T, dtype)
    check("post/text_queue", queue.text.T, dtype)
    assert queue.ids is not None and torch.equal(queue.ids[None], GOLDEN["post/idx_queue"])
    assert queue.pointer == int(GOLDEN["post/queue_ptr"])
