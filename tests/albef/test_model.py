"""The pretraining forward: equal to separate passes written out, no work done twice, every switch, every edge."""

from __future__ import annotations

import copy
import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from albef.config import AlbefConfig, ObjectiveConfig
from albef.inputs.batch import PretrainBatch, TeacherTargets
from albef.model import AlbefForPretraining, PretrainOutput
from albef.momentum import MomentumTeacher
from albef.network import fusion
from albef.network.attention import project_together
from albef.objective.queue import FeatureQueue
from tests.albef.small import CONFIG, make_batch, make_queue, make_student

ALPHA = 0.4
WEIGHT = torch.tensor(ALPHA, dtype=torch.float64)
LAST_FFN = f"multimodal_encoder.layers.{CONFIG.fusion_depth - 1}.ffn"


def targets_of(student: AlbefForPretraining, batch: PretrainBatch) -> TeacherTargets:
    """Targets of a teacher that is not the student."""
    other = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.1)
    return MomentumTeacher(other, device="cpu").targets(batch)


def run(
    student: AlbefForPretraining,
    batch: PretrainBatch,
    *,
    alpha: float = ALPHA,
    negatives: tuple[Tensor, Tensor] | None = None,
) -> PretrainOutput:
    queue = make_queue(
        next(student.parameters()).dtype if student.temperature.dtype != torch.bfloat16 else torch.float32
    )
    output = student(
        batch, targets_of(student, batch), queue, torch.tensor(alpha, dtype=torch.float64), negative_indices=negatives
    )
    assert isinstance(output, PretrainOutput)
    return output


def count_rows(student: AlbefForPretraining) -> Counter[str]:
    """Rows that enter each part, summed over the calls, from now on."""
    rows: Counter[str] = Counter()
    parts = {"image_encoder", "text_encoder", "multimodal_encoder", "mlm_head", "itm_head", LAST_FFN}
    parts |= {name for name, _ in student.named_modules() if name.endswith("cross_attention.query")}
    for name in parts:

        def count(_module: nn.Module, inputs: tuple[Tensor, ...], _output: Tensor, name: str = name) -> None:
            rows[name] += len(inputs[0])

        student.get_submodule(name).register_forward_hook(count)
    return rows


def count_images(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """From now on, of each projection to keys and values: how many images, and how many linear layers."""
    calls: list[tuple[int, int]] = []

    def counted(states: Tensor, layers: list[nn.Linear]) -> Tensor:
        calls.append((len(states), len(layers)))
        return project_together(states, layers)

    monkeypatch.setattr(fusion, "project_together", counted)
    return calls


def test_base_has_the_papers_parameters() -> None:
    """209,937,725 trainable parameters at 256 px: counted from the published architecture (the goldens' manifest)."""
    with torch.device("meta"):
        student = AlbefForPretraining(AlbefConfig.base())
    assert sum(parameter.numel() for parameter in student.parameters() if parameter.requires_grad) == 209_937_725
    assert sum(parameter.numel() for parameter in student.image_encoder.parameters()) == 85_844_736


def test_initial_weights() -> None:
    """BERT's parts are N(0, 0.02), layers N(0, layer_init_std), with zero biases and [PAD], norms one and zero, the
    image encoder near 0.02 too; the paper's model has 0.02 everywhere."""
    assert AlbefConfig.base().layer_init_std == 0.02
    torch.manual_seed(0)
    student = AlbefForPretraining(AlbefConfig.tiny(layer_init_std=0.05))
    for name, weight in student.named_parameters():
        if "norm" in name:
            assert torch.equal(weight, torch.full_like(weight, float(name.endswith("weight")))), name
        elif name.startswith(("text_encoder", "multimodal_encoder", "mlm_head")):
            # the relative error of a standard deviation of n values is 1 / sqrt(2 n); biases are zero
            spread = 0.0 if name.endswith("bias") else 0.05 if ".layers." in name else 0.02
            assert weight.std(correction=0).item() == pytest.approx(spread, rel=6 / math.sqrt(2 * weight.numel())), name
        elif name.startswith("image_encoder.blocks") and name.endswith("weight"):
            assert 0.015 < weight.std().item() < 0.025, name
    assert not student.text_encoder.embeddings.word.weight[0].any()
    assert student.temperature.shape == (1,) and student.temperature.item() == pytest.approx(0.07)


def test_features_are_normalised_and_states_have_the_stated_shapes() -> None:
    """Shapes of the two encoders and the matching logits, and unit features."""
    student, batch = make_student(), make_batch()
    size, length = batch.input_ids.shape
    image_embeds, image_feat = student.encode_image(batch.image)
    text_embeds, text_feat = student.encode_text(batch.input_ids, batch.attention_mask)
    assert image_embeds.shape == (size, 1 + CONFIG.num_patches, CONFIG.vision_width)
    assert text_embeds.shape == (size, length, CONFIG.text_width)
    for feat in (image_feat, text_feat):
        assert feat.shape == (size, CONFIG.embed_dim) and torch.allclose(feat.norm(dim=1), torch.ones(size))
    assert student.match(text_embeds, batch.attention_mask, image_embeds).shape == (size, 2)


def test_forward_equals_separate_passes() -> None:
    """Losses from one fused batch equal those from a pass per pair, with the images' keys recomputed, in float64."""
    student, batch, queue = make_student(dtype=torch.float64), make_batch(), make_queue(torch.float64)
    targets = targets_of(student, batch)
    output = student(batch, targets, queue, WEIGHT)
    assert output.negative_image is not None and output.negative_text is not None
    size, mask = len(batch.image), batch.attention_mask
    images, image_feat = student.encode_image(batch.image)
    texts, text_feat = student.encode_text(batch.input_ids, mask)

    temperature = student.temperature.detach().double()
    itc = 0.0
    for feat, keys, queued, teacher in (
        (image_feat, targets.text_feat, queue.text, targets.image_feat),
        (text_feat, targets.image_feat, queue.image, targets.text_feat),
    ):
        candidates = torch.cat([keys, queued]).T
        logs = (feat @ candidates / temperature).log_softmax(dim=1)
        soft = ALPHA * (teacher @ candidates / temperature).softmax(dim=1) + (1 - ALPHA) * torch.eye(
            size, size + queue.size
        )
        itc -= (logs * soft).sum(dim=1).mean().item() / 2
    assert output.itc.item() == pytest.approx(itc, rel=1e-7)  # the one-hot weight is fp32, as in the original

    pairs = [(b, b, 1) for b in range(size)]
    pairs += [(b, int(output.negative_image[b]), 0) for b in range(size)]
    pairs += [(int(output.negative_text[b]), b, 0) for b in range(size)]
    itm, correct = 0.0, 0
    for row, (text, image, label) in enumerate(pairs):
        logits = student.match(texts[[text]], mask[[text]], images[[image]])
        assert output.itm_logits is not None and torch.allclose(output.itm_logits[row], logits[0], atol=1e-12)
        itm += F.cross_entropy(logits, torch.tensor([label])).item() / len(pairs)
        correct += int(logits.argmax()) == label
    assert output.itm.item() == pytest.approx(itm, rel=1e-12)
    assert output.itm_accuracy.item() == pytest.approx(correct / len(pairs))

    assert targets.mlm_logits is not None
    teacher_probs = targets.mlm_logits.whole().softmax(dim=1)
    masked, _ = student.encode_text(batch.mlm_input_ids, mask)
    mlm = 0.0
    for n, position in enumerate(batch.mlm_positions.tolist()):
        b, place = divmod(position, mask.shape[1])
        state = student.multimodal_encoder(masked[[b]], mask[[b]], images[[b]])[0, place]
        logits = student.mlm_head(state) @ student.text_encoder.embeddings.word.weight.T + student.mlm_head.bias
        logs = logits.log_softmax(dim=0)
        mlm -= (1 - ALPHA) * logs[batch.mlm_labels[n]].item() + ALPHA * (logs * teacher_probs[n]).sum().item()
    assert output.mlm.item() == pytest.approx(mlm / len(batch.mlm_positions), rel=1e-12)
    assert output.total.item() == pytest.approx((output.itc + output.itm + output.mlm).item(), rel=1e-15)


def test_no_work_is_done_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """One batch of 2 B texts, one of 4 B fused rows, keys of an image once a layer, the vocabulary at masked tokens.

    The last layer's feed-forward half takes what is read alone: [CLS] of the pairs, and the masked tokens.
    """
    student, batch = make_student(), make_batch()
    targets, rows, images = targets_of(student, batch), count_rows(student), count_images(monkeypatch)
    student(batch, targets, make_queue(), WEIGHT)
    size = len(batch.image)
    assert images == [(size, 2 * CONFIG.fusion_depth)]
    expected = {"image_encoder": size, "text_encoder": 2 * size, "multimodal_encoder": 4 * size}
    expected |= {"mlm_head": len(batch.mlm_positions), "itm_head": 3 * size}
    expected[LAST_FFN] = len(batch.mlm_positions) + 3 * size
    for i in range(CONFIG.fusion_depth):
        expected[f"multimodal_encoder.layers.{i}.cross_attention.query"] = 4 * size
    assert rows == expected


def test_the_step_never_waits_for_the_device() -> None:
    """The whole step runs on the meta device, where reading any value back to the host is an error."""
    student = make_student().to("meta").train()
    batch = make_batch().to("meta")
    queue = FeatureQueue(8, CONFIG.embed_dim, seed=0, device="meta")
    with torch.device("meta"):
        teacher = MomentumTeacher(student, device="meta", compute_dtype=torch.bfloat16)
        targets = teacher.targets(batch)
        queue.gather(targets.image_feat, targets.text_feat)
        student(batch, targets, queue, WEIGHT.to("meta")).total.backward()
        queue.enqueue()
        teacher.update(student)
    with pytest.raises(RuntimeError):
        targets.image_feat.sum().item()


@pytest.mark.parametrize(("loss", "unused"), [("itc", ()), ("itm", ("itm_head",)), ("mlm", ("mlm_head",))])
def test_a_loss_switched_off_is_zero_and_costs_nothing(loss: str, unused: tuple[str, ...]) -> None:
    """It is exactly 0, the other two are as before, what only it uses runs on no row and gets no gradient."""
    batch = make_batch()
    full = run(make_student(), batch)
    switches: dict[str, Any] = {loss: False}
    student = make_student(**switches)
    rows = count_rows(student)
    output = run(student, batch)
    assert getattr(output, loss).item() == 0
    for other in {"itc", "itm", "mlm"} - {loss}:
        assert getattr(output, other).item() == pytest.approx(getattr(full, other).item(), rel=1e-5), other
    assert output.total.item() == pytest.approx((full.total - getattr(full, loss)).item(), rel=1e-5)
    assert not any(rows[part] for part in unused)
    output.total.backward()
    without = {name.split(".")[0] for name, parameter in student.named_parameters() if parameter.grad is None}
    expected = {"itc": {"image_proj", "text_proj", "temperature"}, "itm": {"itm_head"}, "mlm": {"mlm_head"}}[loss]
    assert without == expected


def test_one_loss_alone() -> None:
    """Each loss runs without the others, on no more rows than it needs."""
    size, batch = 5, make_batch()
    for loss, texts, fused in (("itc", size, 0), ("itm", size, 3 * size), ("mlm", size, size)):
        switches: dict[str, Any] = {name: name == loss for name in ("itc", "itm", "mlm")}
        student = make_student(**switches)
        rows = count_rows(student)
        output = run(student, batch)
        assert output.total.item() == getattr(output, loss).item() > 0
        assert (rows["text_encoder"], rows["multimodal_encoder"]) == (texts, fused), loss


def test_distillation_switched_off_uses_hard_targets() -> None:
    """With both switches off the losses are those at alpha 0, for any alpha."""
    batch = make_batch()
    hard = run(make_student(), batch, alpha=0.0)
    output = run(make_student(distill_itc=False, distill_mlm=False), batch)
    assert output.itc.item() == pytest.approx(hard.itc.item(), rel=1e-6)
    assert output.mlm.item() == pytest.approx(hard.mlm.item(), rel=1e-6)


def test_hard_negatives_follow_similarity_and_uniform_ones_do_not() -> None:
    """With two close candidates, hard negatives pick them; switched off, a grid of draws meets all others alike."""
    counts = {}
    for hard in (True, False):
        student, batch, queue = make_student(hard_negatives=hard), make_batch(), make_queue()
        targets = targets_of(student, batch)
        drawn: Counter[int] = Counter()
        for step in range(40):
            batch.negative_draws = torch.full((2, 5), (step + 0.5) / 40, dtype=torch.float64)
            output = student(batch, targets, queue, WEIGHT)
            assert output.negative_image is not None
            drawn[int(output.negative_image[0])] += 1
        counts[hard] = drawn
        if hard:
            assert output.sim_t2i is not None
            weights = output.sim_t2i[0, 1:5].softmax(dim=0)
            for column, weight in enumerate(weights.tolist(), start=1):
                assert abs(drawn[column] - 40 * weight) <= 1
    assert counts[False] == {1: 10, 2: 10, 3: 10, 4: 10}
    assert counts[True] != counts[False]


def test_given_negatives_are_used() -> None:
    """Injected indices replace the draw: text b with image given[0][b], image b with text given[1][b]."""
    given = (torch.tensor([1, 2, 3, 4, 0]), torch.tensor([4, 0, 1, 2, 3]))
    output = run(make_student(), make_batch(), negatives=given)
    assert output.negative_image is given[0] and output.negative_text is given[1]


def test_a_batch_of_one_has_no_negatives() -> None:
    """Matching is then the loss of the pair alone; everything is finite and has a gradient."""
    student, batch = make_student(), make_batch(size=1)
    output = run(student, batch)
    assert output.itm_logits is not None
    assert output.itm.item() == pytest.approx(
        F.cross_entropy(output.itm_logits[:1], torch.tensor([1])).item(), rel=1e-6
    )
    assert output.itm_accuracy.item() in (0.0, 1.0)
    output.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_nothing_masked_gives_zero_not_nan() -> None:
    """A batch without masked tokens trains on the other two losses; the MLM head's gradient is zero."""
    student, batch = make_student(), make_batch(probability=0.0)
    output = run(student, batch)
    assert output.mlm.item() == 0 and output.total.isfinite()
    output.total.backward()
    for parameter in student.mlm_head.parameters():
        assert parameter.grad is not None and not parameter.grad.any()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_padding_changes_nothing() -> None:
    """Three more columns of [PAD] leave losses and gradients as they are; states at padding are finite."""
    plain, padded = make_student(dtype=torch.float64), make_student(dtype=torch.float64)
    batch, longer = make_batch(), make_batch(extra_padding=3)
    assert longer.input_ids.shape[1] == batch.input_ids.shape[1] + 3
    one, two = run(plain, batch), run(padded, longer)
    for name in ("itc", "itm", "mlm"):
        assert getattr(one, name).item() == pytest.approx(getattr(two, name).item(), rel=1e-12), name
    one.total.backward()
    two.total.backward()
    for (name, left), right in zip(plain.named_parameters(), padded.parameters(), strict=True):
        assert left.grad is not None and right.grad is not None
        assert torch.allclose(left.grad, right.grad, rtol=1e-9, atol=1e-12), name
    states, _ = padded.encode_text(longer.input_ids, longer.attention_mask)
    assert states.isfinite().all()


def test_bf16_weights_give_fp32_losses() -> None:
    """With every parameter in bf16 and images in fp32: losses are fp32, near fp32's, and gradients are finite."""
    batch, student = make_batch(), make_student(dtype=torch.bfloat16)
    wide = run(make_student(), batch, negatives=(torch.tensor([1, 2, 3, 4, 0]),) * 2)
    output = run(student, batch, negatives=(torch.tensor([1, 2, 3, 4, 0]),) * 2)
    for name in ("total", "itc", "itm", "mlm", "itm_accuracy", "image_feat", "sim_i2t", "itm_logits"):
        assert getattr(output, name).dtype == torch.float32, name
    assert student.clamped_temperature().dtype == torch.float32
    for name in ("itc", "itm", "mlm"):
        # eight bits over four layers
        assert getattr(output, name).item() == pytest.approx(getattr(wide, name).item(), rel=0.05), name
    output.total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in student.parameters())


def test_dropout_is_drawn_from_the_seeded_generator() -> None:
    """In training the same seed repeats the step to the bit, another seed does not; evaluation draws nothing."""
    student, batch = make_student().train(), make_batch()
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(run(student, batch).total.item())
    assert losses[0] == losses[1] != losses[2]
    student.eval()
    state = torch.get_rng_state()
    student.match(
        *(
            student.encode_text(batch.input_ids, batch.attention_mask)[0],
            batch.attention_mask,
            student.encode_image(batch.image)[0],
        )
    )
    assert torch.equal(state, torch.get_rng_state())


def test_several_texts_of_an_image_share_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matching two texts with each image at once equals matching each pair on its own."""
    student, batch = make_student(dtype=torch.float64), make_batch(size=4)
    images, _ = student.encode_image(batch.image[:2])
    texts, _ = student.encode_text(batch.input_ids, batch.attention_mask)
    projected = count_images(monkeypatch)
    together = student.match(texts, batch.attention_mask, images)  # texts 0, 1 with image 0; texts 2, 3 with image 1
    assert projected == [(2, 2 * CONFIG.fusion_depth)]
    for row in range(4):
        alone = student.match(texts[[row]], batch.attention_mask[[row]], images[[row // 2]])
        assert torch.allclose(together[row], alone[0], atol=1e-12)


def test_states_at_positions_are_those_of_the_whole() -> None:
    """Any positions in any order, of own and extra rows, as the whole encoder computes them; and their gradient."""
    student, batch = make_student(dtype=torch.float64), make_batch(size=3)
    images, _ = student.encode_image(batch.image[:2])
    texts, _ = student.encode_text(batch.input_ids, batch.attention_mask)
    extra, length = torch.tensor([0]), texts.shape[1]  # text 2 attends to image 0 as text 0 does
    positions = torch.tensor([2 * length + 1, 0, length - 1, 2 * length + 1])
    whole = student.multimodal_encoder(texts, batch.attention_mask, images, extra).flatten(0, 1)[positions]
    states = student.multimodal_encoder(texts, batch.attention_mask, images, extra, positions=positions)
    assert torch.allclose(states, whole, atol=1e-12)
    pull = torch.randn_like(whole)
    expected, found = (torch.autograd.grad((out * pull).sum(), texts, retain_graph=True)[0] for out in (whole, states))
    assert torch.allclose(found, expected, atol=1e-12)


def test_attention_in_the_open_equals_fused_attention() -> None:
    """Keeping the weights for Grad-CAM changes no logit; they are a distribution over image tokens, with a gradient."""
    student, batch = make_student(dtype=torch.float64), make_batch()
    images, _ = student.encode_image(batch.image)
    texts, _ = student.encode_text(batch.input_ids, batch.attention_mask)
    fused = student.match(texts, batch.attention_mask, images)
    layer = student.multimodal_encoder.get_submodule("layers.1.cross_attention")
    layer.keep_weights = True  # type: ignore[assignment]  # get_submodule is typed nn.Module
    opened = student.match(texts, batch.attention_mask, images)
    assert torch.allclose(fused, opened, atol=1e-12)
    opened[:, 1].sum().backward()
    weights = layer.weights
    assert isinstance(weights, Tensor) and weights.grad is not None
    assert weights.shape == (
        *batch.input_ids.shape[:1],
        CONFIG.text_heads,
        batch.input_ids.shape[1],
        1 + CONFIG.num_patches,
    )
    assert torch.allclose(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))


def test_a_pad_drawn_as_a_random_word_gets_no_embedding_gradient() -> None:
    """As in BERT: [PAD] looked up at a real position leaves its embedding to the tied decoder's gradient alone."""
    student = make_student()
    ids = torch.tensor([[2, 0, 7]])
    states, _ = student.encode_text(ids, torch.ones_like(ids))
    states.square().sum().backward()
    gradient = student.text_encoder.embeddings.word.weight.grad
    assert gradient is not None and not gradient[0].any() and gradient[7].any()


def test_default_objective_is_the_papers() -> None:
    """A model made without an objective pretrains with all three losses and both distillations."""
    with torch.device("meta"):
        assert AlbefForPretraining(CONFIG).objective == ObjectiveConfig()


def test_a_rising_alpha_compiles_one_graph() -> None:
    """Eight steps of the ramp: one graph without a break, and the losses of the forward that is not compiled."""
    student, batch, queue = make_student(), make_batch(), make_queue()
    targets = targets_of(student, batch)
    graphs = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(student, backend=backend, fullgraph=True)
    for step in range(8):
        alpha = torch.tensor(ALPHA * step / 8, dtype=torch.float64)
        output = compiled(batch, targets, queue, alpha)
        output.total.backward()
        assert torch.equal(output.total, student(batch, targets, queue, alpha).total)
    assert len(graphs) == 1
