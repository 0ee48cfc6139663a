"""One pretraining step, and several, against tensors recorded from the official code: every intermediate it left."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from albef.inputs.batch import PretrainBatch, TeacherTargets
from albef.kernels.itc import itc_loss
from albef.kernels.mlm import WordLogits
from albef.model import PretrainOutput
from albef.objective.losses import contrastive_logits, mlm_loss
from albef.objective.negatives import negative_weights
from tests.parity.goldens import (
    Golden,
    Trio,
    adamw,
    build,
    check,
    load,
    official_groups,
    recorded_batch,
    tolerance,
)

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


@pytest.fixture(scope="module")
def golden() -> Golden:
    return load("pretrain_tiny")


class Step:
    """The recorded batch 0, taken with the weights as they were; `alpha` None takes the recording's."""

    def __init__(self, golden: Golden, dtype: torch.dtype, alpha: float | None = None) -> None:
        self.golden, self.dtype = golden, dtype
        self.trio: Trio = build(golden, dtype)
        self.batch: PretrainBatch
        self.batch, self.negatives = recorded_batch(golden, "in/0/", "inj/0/")
        alpha = golden.info["config"]["alpha"] if alpha is None else alpha
        self.alpha = torch.tensor(alpha, dtype=torch.float64)
        student, teacher, queue = self.trio.student, self.trio.teacher, self.trio.queue
        teacher.update(student)  # the original averages before the teacher's forward
        self.targets: TeacherTargets = teacher.targets(self.batch)
        self.output: PretrainOutput = student(
            self.batch, self.targets, queue, self.alpha, negative_indices=self.negatives
        )
        self.image_embeds, self.image_feat = student.encode_image(self.batch.image)
        self.text_embeds, self.masked_embeds = student.encode_clean_and_masked(self.batch)

    def check(self, ours: Tensor, key: str, *, mask: Tensor | None = None, noise: str | None = None) -> None:
        recorded = self.golden[key]
        check(key, ours, recorded, tolerance(self.golden, key, recorded, self.dtype, noise=noise), mask=mask)

    def fuse(self, model: Any, image_embeds: Tensor, text_embeds: Tensor, mask: Tensor) -> Tensor:
        fused = model.multimodal_encoder(text_embeds, mask, image_embeds)
        assert isinstance(fused, Tensor)
        return fused


@pytest.fixture(scope="module")
def step_of(golden: Golden) -> Callable[[torch.dtype], Step]:
    steps: dict[torch.dtype, Step] = {}

    def get(dtype: torch.dtype) -> Step:
        if dtype not in steps:
            steps[dtype] = Step(golden, dtype)
        return steps[dtype]

    return get


@DTYPES
def test_encoders(step_of: Callable[[torch.dtype], Step], dtype: torch.dtype) -> None:
    """Image and text states and features of student and teacher, clean and masked text taken as one batch."""
    step = step_of(dtype)
    mask = step.batch.attention_mask
    step.check(step.image_embeds, "out/image_embeds")
    step.check(step.output.image_feat, "out/image_feat")
    assert step.text_embeds is not None and step.output.text_feat is not None
    step.check(step.text_embeds, "out/text_embeds", mask=mask)
    step.check(step.output.text_feat, "out/text_feat")
    teacher = step.trio.teacher.model
    step.check(teacher.encode_image(step.batch.image)[0], "out/image_embeds_m")
    step.check(teacher.encode_text(step.batch.input_ids, mask)[0], "out/text_embeds_m", mask=mask)
    step.check(step.targets.image_feat, "out/image_feat_m")
    step.check(step.targets.text_feat, "out/text_feat_m")


@DTYPES
def test_similarities_and_soft_targets(step_of: Callable[[torch.dtype], Step], dtype: torch.dtype) -> None:
    """Logits against the batch and the queue, of student and teacher, and the mixed targets at both alphas."""
    step = step_of(dtype)
    targets, queue, output = step.targets, step.trio.queue, step.output
    temperature = step.trio.student.clamped_temperature()
    assert output.text_feat is not None and output.teacher_lse_i2t is not None
    for way, feat, teacher, key_feat, keys in (
        ("i2t", output.image_feat, targets.image_feat, targets.text_feat, queue.text),
        ("t2i", output.text_feat, targets.text_feat, targets.image_feat, queue.image),
    ):
        sim = contrastive_logits(feat, key_feat, keys, temperature)
        step.check(sim, f"out/sim_{way}")
        assert torch.allclose(getattr(output, f"sim_{way}"), sim[:, : len(feat)], rtol=1e-6)
        sim_m = contrastive_logits(teacher, key_feat, keys, temperature)
        step.check(sim_m, f"out/sim_{way}_m")
        lse = itc_loss(feat, key_feat, keys, temperature, teacher=teacher, alpha=step.alpha).teacher_lse
        assert lse is not None and (way == "t2i" or torch.equal(lse, output.teacher_lse_i2t))
        for alpha, key in ((step.alpha, "alpha/out"), (torch.zeros_like(step.alpha), "alpha0/out")):
            # the one-hot's weight is fp32 in the original
            soft = alpha * (sim_m - lse[:, None]).exp() + (1 - alpha).float() * torch.eye(*sim.shape, dtype=sim.dtype)
            step.check(soft, f"{key}/sim_{way}_targets", noise=f"out/sim_{way}_targets")
            loss = itc_loss(feat, key_feat, keys, temperature, teacher=teacher, alpha=alpha).rows.mean()
            step.check(loss, f"{key}/loss_{way}", noise=f"out/loss_{way}")


@DTYPES
def test_negative_weights(step_of: Callable[[torch.dtype], Step], dtype: torch.dtype) -> None:
    """Our distribution of negatives is the recorded one, normalised: there the partner is zeroed after the softmax."""
    step = step_of(dtype)
    size = len(step.batch.image)
    for way, sim in (("i2t", step.output.sim_i2t), ("t2i", step.output.sim_t2i)):
        assert sim is not None
        recorded = step.golden[f"out/weights_{way}"]
        rest = recorded.sum(dim=1, keepdim=True)
        weights, valid = negative_weights(sim[:, :size])
        assert valid.all()
        # undoing the normalisation makes the recorded noise apply
        allowed = tolerance(step.golden, f"out/weights_{way}", recorded, dtype)
        check(f"out/weights_{way}", weights.double() * rest, recorded, allowed)


@DTYPES
def test_multimodal_encoder(step_of: Callable[[torch.dtype], Step], dtype: torch.dtype) -> None:
    """States of pairs and both kinds of negatives, with keys and values shared per image, and the MLM logits."""
    step = step_of(dtype)
    student, teacher, mask = step.trio.student, step.trio.teacher.model, step.batch.attention_mask
    text, (negative_image, negative_text) = step.text_embeds, step.negatives
    size = len(mask)
    assert text is not None and step.masked_embeds is not None
    rows = torch.stack([text, text[negative_text], step.masked_embeds], dim=1).flatten(0, 1)
    row_masks = torch.stack([mask, mask[negative_text], mask], dim=1).flatten(0, 1)
    fused = student.multimodal_encoder(
        torch.cat([rows, text]), torch.cat([row_masks, mask]), step.image_embeds, negative_image
    )
    pairs, texts, masked = fused[: 3 * size].unflatten(0, (size, 3)).unbind(1)
    step.check(pairs, "out/fused_pos", mask=mask)
    negatives = torch.cat([fused[3 * size :], texts])
    step.check(negatives, "out/fused_neg", mask=torch.cat([mask, mask[negative_text]]))

    tokens = mask.flatten().nonzero().squeeze(1)
    everywhere = student.predict_masked(masked.flatten(0, 1)[tokens]).whole()
    recorded = step.golden["out/mlm_logits"].flatten(0, 1)
    check("out/mlm_logits", everywhere, recorded[tokens], tolerance(step.golden, "out/mlm_logits", recorded, dtype))
    images_m = teacher.encode_image(step.batch.image)[0]
    masked_m = teacher.encode_text(step.batch.mlm_input_ids, mask)[0]
    fused_m = step.fuse(teacher, images_m, masked_m, mask).flatten(0, 1)
    logits_m = teacher.predict_masked(fused_m[tokens]).whole()
    recorded_m = step.golden["out/mlm_logits_m"].flatten(0, 1)[tokens]
    check("out/mlm_logits_m", logits_m, recorded_m, tolerance(step.golden, "out/mlm_logits_m", recorded_m, dtype))


@DTYPES
def test_heads_and_losses(step_of: Callable[[torch.dtype], Step], dtype: torch.dtype) -> None:
    """What the forward itself returns: logits, labels and the three losses, at the recorded alpha and at zero."""
    step = step_of(dtype)
    golden, output, batch = step.golden, step.output, step.batch
    assert output.itm_logits is not None and output.itm_labels is not None and output.mlm_states is not None
    step.check(output.itm_logits, "out/itm_logits")
    assert torch.equal(output.itm_labels, golden["out/itm_labels"])
    allowed = tolerance(golden, "out/mlm_logits", golden["out/mlm_logits"], dtype)
    recorded = golden["out/mlm_logits"].flatten(0, 1)[batch.mlm_positions]
    student = step.trio.student
    predicted = WordLogits(output.mlm_states, student.text_encoder.embeddings.word.weight, student.mlm_head.bias)
    check("out/mlm_logits", predicted.whole(), recorded, allowed)
    recorded_m = golden["out/mlm_logits_m"].flatten(0, 1)[batch.mlm_positions]
    assert step.targets.mlm_logits is not None
    allowed = tolerance(golden, "out/mlm_logits_m", golden["out/mlm_logits_m"], dtype)
    check("out/mlm_logits_m", step.targets.mlm_logits.whole(), recorded_m, allowed)

    step.check(output.itm, "out/loss_itm")
    everything_soft = mlm_loss(predicted, batch.mlm_labels, step.targets.mlm_logits, 1.0)
    step.check(everything_soft, "out/loss_mlm_distill")
    itm_expected = golden["out/itm_logits"].argmax(dim=1) == golden["out/itm_labels"]
    assert float(output.itm_accuracy) == pytest.approx(float(itm_expected.double().mean()), abs=1e-6)
    for alpha, where in ((step.alpha, "alpha/out"), (torch.zeros_like(step.alpha), "alpha0/out")):
        again = step.trio.student(batch, step.targets, step.trio.queue, alpha, negative_indices=step.negatives)
        for ours, key in ((again.itc, "loss_ita"), (again.mlm, "loss_mlm"), (again.total, "loss_total")):
            step.check(ours, f"{where}/{key}", noise=f"out/{key}")


@DTYPES
def test_gradients_teacher_and_queue(golden: Golden, dtype: torch.dtype) -> None:
    """Gradients of the summed losses for every parameter, the averaged teacher, and the ring after it wrapped."""
    step = Step(golden, dtype)
    step.output.total.backward()
    recorded = golden.under("grad/")
    parameters = step.trio.parameters()
    assert parameters.keys() == recorded.keys()
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        step.check(parameter.grad.view(recorded[name].shape), f"grad/{name}")

    averaged = step.trio.averaged()
    assert averaged.keys() == golden.under("post_m/").keys()
    for name, weight in averaged.items():
        step.check(weight, f"post_m/{name}")

    queue = step.trio.queue
    queue.gather(step.targets.image_feat, step.targets.text_feat)
    queue.enqueue()
    step.check(queue.image.T, "post/image_queue")
    step.check(queue.text.T, "post/text_queue")
    assert queue.pointer == int(golden["post/queue_ptr"])


@DTYPES
def test_gradients_without_distillation(golden: Golden, dtype: torch.dtype) -> None:
    """At alpha 0 the gradients are the recorded five; with distillation switched off they are the same."""
    step = Step(golden, dtype, alpha=0.0)
    step.output.total.backward()
    plain = build(golden, dtype, distill_itc=False, distill_mlm=False)
    plain.teacher.update(plain.student)
    targets = plain.teacher.targets(step.batch)
    assert targets.mlm_logits is None
    output = plain.student(step.batch, targets, plain.queue, torch.tensor(0.4), negative_indices=step.negatives)
    output.total.backward()
    for name, recorded in golden.under("alpha0/grad/").items():
        for trio in (step.trio, plain):
            gradient = trio.parameters()[name].grad
            assert gradient is not None
            step.check(gradient.view(recorded.shape), f"alpha0/grad/{name}", noise=f"grad/{name}")


def test_decay_groups(golden: Golden) -> None:
    """The rule (one-dimensional, or named .bias) gives the recorded groups, and they cover every parameter once."""
    recorded = golden.info["param_groups"]
    by_rule = {group["weight_decay"]: set(group["names"]) for group in official_groups(golden)}
    assert by_rule == {group["weight_decay"]: set(group["names"]) for group in recorded}
    names = [name for group in recorded for name in group["names"]]
    assert sorted(names) == sorted(build(golden, torch.float32).parameters())


@DTYPES
def test_one_adamw_step(golden: Golden, dtype: torch.dtype) -> None:
    """What one AdamW step moved, for every parameter.

    In float32 without the biases of keys: a softmax does not see them, so their gradients are zero up to rounding, and
    AdamW turns rounding into full steps.
    """
    step = Step(golden, dtype)
    before = {name: parameter.detach().clone() for name, parameter in step.trio.parameters().items()}
    lr = golden.info["run"]["lr"]
    optimizer = adamw(step.trio, golden.info["param_groups"], lr)
    step.output.total.backward()
    optimizer.step()
    for name, parameter in step.trio.parameters().items():
        key = f"adamw1_delta/{name}"
        recorded = golden[key]
        delta = (parameter.detach() - before[name]).view(recorded.shape)
        if dtype == torch.float64:
            check(key, delta, recorded, 1e-6 * lr)  # a millionth of a full step
            continue
        if name.endswith("key.bias"):
            continue
        if name.endswith("qkv.bias"):  # queries, keys, values
            delta, recorded = (part.unflatten(0, (3, -1))[[0, 2]] for part in (delta, recorded))
        # the difference of two weights carries their rounding
        floor = 4 * torch.finfo(dtype).eps * float(before[name].abs().max())
        check(key, delta, recorded, max(10 * golden.noise(key), floor))


@DTYPES
@pytest.mark.parametrize("alpha", ["alpha", "alpha0"])
def test_several_steps(golden: Golden, dtype: torch.dtype, alpha: str) -> None:
    """The recorded optimizer steps: losses of each, and the weights, teacher and queues that they end in."""
    trio = build(golden, dtype)
    optimizer = adamw(trio, golden.info["param_groups"], golden.info["run"]["lr"])
    weight = torch.tensor(golden.info["config"]["alpha"] if alpha == "alpha" else 0.0, dtype=torch.float64)
    losses = []
    for k in range(len(golden["multi/losses"])):
        batch, negatives = recorded_batch(golden, f"in/{k}/", f"inj/{k}/")
        trio.teacher.update(trio.student)
        targets = trio.teacher.targets(batch)
        output = trio.student(batch, targets, trio.queue, weight, negative_indices=negatives)
        optimizer.zero_grad()
        output.total.backward()
        optimizer.step()
        trio.queue.gather(targets.image_feat, targets.text_feat)
        trio.queue.enqueue()
        losses.append(torch.stack([output.itc, output.itm, output.mlm]).detach())
    key = "multi/losses" if alpha == "alpha" else "alpha0/multi/losses"
    recorded = golden[key]
    check(key, torch.stack(losses), recorded, tolerance(golden, key, recorded, dtype, noise="multi/losses"))
    if alpha == "alpha0":
        return
    finals = {name: parameter.detach() for name, parameter in trio.parameters().items()}
    finals |= trio.averaged() | {"image_queue": trio.queue.image.T, "text_queue": trio.queue.text.T}
    for name, recorded in golden.under("multi/final/").items():
        if name == "queue_ptr":
            assert trio.queue.pointer == int(recorded)
            continue
        allowed = tolerance(golden, f"multi/final/{name}", recorded, dtype)
        check(f"multi/final/{name}", finals[name].view(recorded.shape), recorded, allowed)


@DTYPES
def test_temperature_is_clamped(golden: Golden, dtype: torch.dtype) -> None:
    """A temperature outside [0.001, 0.5] gives the losses of the bound, and still gets its gradient there."""
    batch, negatives = recorded_batch(golden, "in/0/", "inj/0/")
    for value, expected in golden.info["temp_clamp"].items():
        trio = build(golden, dtype)
        with torch.no_grad():
            trio.student.temperature.fill_(float(value))
        trio.teacher.update(trio.student)
        temperature = trio.student.clamped_temperature()
        assert temperature.item() == pytest.approx(expected["temp_after"], rel=1e-6)
        targets = trio.teacher.targets(batch)
        alpha = torch.tensor(golden.info["config"]["alpha"], dtype=torch.float64)
        output = trio.student(batch, targets, trio.queue, alpha, negative_indices=negatives)
        close = 1e-9 if dtype == torch.float64 else 1e-5
        assert output.itc.item() == pytest.approx(expected["loss_ita"], rel=close)
        assert output.itm.item() == pytest.approx(expected["loss_itm"], rel=close)
        assert output.mlm.item() == pytest.approx(expected["loss_mlm"], rel=close)
        output.itc.backward()
        assert trio.student.temperature.grad is not None and trio.student.temperature.grad.abs().item() > 0
