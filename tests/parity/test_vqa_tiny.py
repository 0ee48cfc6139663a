"""Visual question answering against tensors recorded from the official code: loss, gradients and ranking."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from albef.config import VqaConfig
from albef.downstream.vqa import AlbefForVqa, AnswerList, VqaTeacher
from albef.inputs.vqa_batch import VqaBatch, decoder_inputs
from albef.weights.official import from_official, official_names
from tests.parity.goldens import Golden, check, load, model_config, tolerance

DTYPES = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])


class Step:
    """The recorded batch, with the teacher as averaged before its forward."""

    def __init__(self, dtype: torch.dtype) -> None:
        golden = self.golden = load("vqa_tiny")
        self.dtype = dtype
        recorded, shape = golden.info["config"], model_config(golden)
        weights = from_official(
            golden.under("state/"),
            vision_heads=shape.vision_heads,
            text_heads=shape.text_heads,
            pad_token_id=shape.pad_token_id,
            cls_token_id=shape.cls_token_id,
            mask_token_id=shape.mask_token_id,
        )
        assert weights.teacher is not None
        objective = VqaConfig(alpha=recorded["alpha"], momentum=recorded["momentum"], first_token_twice=True)
        self.alpha = torch.tensor(objective.alpha, dtype=torch.float64)
        self.student = AlbefForVqa(weights.config, objective)
        self.student.load_state_dict(weights.student)
        self.student.to(dtype).eval()
        self.teacher = VqaTeacher(self.student, device="cpu", compute_dtype=dtype)
        self.teacher.load_state_dict(weights.teacher)
        self.teacher.update(self.student)
        self.batch = recorded_batch(golden)

    def check(self, ours: Tensor, key: str, *, mask: Tensor | None = None, noise: str | None = None) -> None:
        recorded = self.golden[key]
        check(key, ours, recorded, tolerance(self.golden, key, recorded, self.dtype, noise=noise), mask=mask)


def recorded_batch(golden: Golden) -> VqaBatch:
    """The recorded questions with their answers."""
    inputs = decoder_inputs(golden["in/answer_ids"], golden["in/answer_mask"])
    return VqaBatch(
        image=golden["in/image"],
        question_ids=golden["in/question_ids"],
        question_mask=golden["in/question_mask"],
        answer_ids=inputs.ids,
        answer_question=torch.arange(len(golden["in/k"])).repeat_interleave(golden["in/k"]),
        answer_weights=golden["in/weights"],
        answer_positions=inputs.positions,
        answer_labels=inputs.labels,
    )


@cache
def step_of(dtype: torch.dtype) -> Step:
    """One for the tests that change nothing."""
    return Step(dtype)


def logits_of(model: AlbefForVqa, golden: Golden, batch: VqaBatch) -> tuple[Tensor, Tensor]:
    """Fused questions (B, L, H), and the logits (R, T+1, V) at every token of whole answers, padding included."""
    hidden = model.ask(batch.image, batch.question_ids, batch.question_mask)
    decoder = model.answer_decoder
    questions = decoder.read(hidden, batch.question_mask, batch.answer_question)
    return hidden, decoder.predict(decoder(golden["in/answer_ids"], questions)).whole()


@DTYPES
def test_question_states_and_decoder_logits(dtype: torch.dtype) -> None:
    """Of the student and of the teacher, whose logits are recorded without the last token's."""
    step = step_of(dtype)
    golden, batch, answer_mask = step.golden, step.batch, step.golden["in/answer_mask"]
    hidden, logits = logits_of(step.student, golden, batch)
    step.check(hidden, "out/question_hidden", mask=batch.question_mask)
    step.check(logits, "out/answer_logits", mask=answer_mask)
    hidden, logits = logits_of(step.teacher.model, golden, batch)
    step.check(hidden, "out/question_hidden_m", mask=batch.question_mask)
    step.check(logits[:, :-1], "out/answer_logits_m_shifted", mask=answer_mask[:, :-1])


def test_targets_are_the_recorded_ones() -> None:
    """Every recorded target but the first token is predicted, once, from the token before it."""
    golden = load("vqa_tiny")
    recorded = golden["out/answer_targets"]
    batch = recorded_batch(golden)
    ours = torch.full_like(recorded[:, 1:], -100)
    ours.view(-1)[batch.answer_positions] = batch.answer_labels
    assert torch.equal(ours, recorded[:, 1:])
    assert torch.equal(batch.answer_ids, golden["in/answer_ids"][:, :-1])


@DTYPES
def test_losses(dtype: torch.dtype) -> None:
    """Of each answer and in sum: at the recorded alpha, at zero, without distillation, and of soft targets alone."""
    step = step_of(dtype)
    batch, targets = step.batch, step.teacher.targets(step.batch)
    cases = (
        ("alpha", targets, step.alpha),
        ("alpha0", targets, torch.zeros_like(step.alpha)),
        ("nodistill", None, step.alpha),
    )
    for where, soft, alpha in cases:
        output = step.student(batch, soft, alpha)
        step.check(output.total, f"{where}/out/loss")
        step.check(by_answer(output.token_losses, batch), f"{where}/out/loss_per_answer")
    output = step.student(batch, targets, torch.ones_like(step.alpha))
    step.check(by_answer(output.token_losses, batch), "out/loss_distill_per_answer")


def by_answer(losses: Tensor, batch: VqaBatch) -> Tensor:
    """(R,) sums of the token losses (N,)."""
    num_answers, length = batch.answer_ids.shape
    return losses.new_zeros(num_answers).index_add(0, batch.answer_positions // length, losses.detach())


@DTYPES
def test_gradients_and_teacher(dtype: torch.dtype) -> None:
    """Of every parameter at the recorded alpha, and the averaged teacher."""
    step = Step(dtype)
    step.student(step.batch, step.teacher.targets(step.batch), step.alpha).total.backward()
    names = official_names(step.student.state_dict())
    parameters = {names[name]: parameter for name, parameter in step.student.named_parameters()}
    assert parameters.keys() == step.golden.under("grad/").keys()
    for name, parameter in parameters.items():
        assert parameter.grad is not None, name
        step.check(parameter.grad, f"grad/{name}")
    names = official_names(step.student.state_dict(), teacher=True)
    averaged = {names[name]: weight for name, weight in step.teacher.state_dict().items()}
    assert averaged.keys() == step.golden.under("post_m/").keys()
    for name, weight in averaged.items():
        step.check(weight, f"post_m/{name}")


@DTYPES
def test_ranking(dtype: torch.dtype) -> None:
    """The first token's probabilities, the candidates chosen by them, and the order by whole answers."""
    step = step_of(dtype)
    golden, batch, student = step.golden, step.batch, step.student
    questions = student.answer_decoder.read(
        student.ask(batch.image, batch.question_ids, batch.question_mask), batch.question_mask
    )
    start = golden["in/cand_ids"][:1, :1].expand(len(batch.image), 1)
    first = student.answer_decoder.predict(student.answer_decoder(start, questions).flatten(0, 1)).whole()
    step.check(first, "rank/first_logits")
    answers = AnswerList(golden["in/cand_ids"], golden["in/cand_mask"])
    k = int(golden["in/rank_k"])
    ranked = student.rank(batch.image, batch.question_ids, batch.question_mask, answers, k)
    assert torch.equal(ranked.candidates, golden["rank/topk_ids"])
    step.check(ranked.probabilities, "rank/topk_probs")
    # recorded in the order of the first tokens' probabilities
    scores = golden["rank/log_probs_sum"].sort(dim=1, descending=True).values
    check("rank/log_probs_sum", ranked.scores, scores, tolerance(golden, "rank/log_probs_sum", scores, dtype))
    once = AlbefForVqa(student.config, VqaConfig()).to(dtype).eval()
    once.load_state_dict(student.state_dict())
    ranked = once.rank(batch.image, batch.question_ids, batch.question_mask, answers, k)
    losses = -ranked.scores.sort(dim=1).values
    recorded = golden["rank/answer_loss"].view(-1, k).sort(dim=1, descending=True).values
    check("rank/answer_loss", losses, recorded, tolerance(golden, "rank/answer_loss", recorded, dtype))
