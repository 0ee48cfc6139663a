"""The model of visual question answering: what it learns, how it ranks, what it writes."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from albef.config import VqaConfig
from albef.downstream.vqa import AlbefForVqa, AnswerList
from albef.errors import ConfigError
from albef.inputs.vqa_batch import VqaBatch, decoder_inputs
from tests.albef.small import CONFIG

SEP = 3
"""[SEP] in the small vocabulary; [CLS] is 2, [PAD] 0."""
ALPHA = torch.tensor(0.0, dtype=torch.float64)


def make_model(*, dtype: torch.dtype = torch.float64, seed: int = 0, **objective: Any) -> AlbefForVqa:
    """A model in eval mode with weights large enough that no two inputs look alike."""
    torch.manual_seed(seed)
    model = AlbefForVqa(CONFIG, VqaConfig(**objective))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
    return model.to(dtype).eval()


def padded(rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask of token rows."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [CONFIG.pad_token_id] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def make_batch(answers: list[list[list[int]]], weights: list[float] | None = None, *, seed: int = 1) -> VqaBatch:
    """Questions of unequal lengths about random images, each with the given answers (tokens between [CLS] and
    [SEP])."""
    generator = torch.Generator().manual_seed(seed)
    rows = [[CONFIG.cls_token_id, *answer, SEP] for group in answers for answer in group]
    inputs = decoder_inputs(*padded(rows))
    questions = [
        [CONFIG.cls_token_id, *torch.randint(5, CONFIG.vocab_size, (3 + i % 4,), generator=generator).tolist()]
        for i in range(len(answers))
    ]
    question_ids, question_mask = padded(questions)
    return VqaBatch(
        image=torch.randn(len(answers), 3, CONFIG.image_size, CONFIG.image_size, generator=generator),
        question_ids=question_ids,
        question_mask=question_mask,
        answer_ids=inputs.ids,
        answer_question=torch.tensor([i for i, group in enumerate(answers) for _ in group]),
        answer_weights=torch.tensor(weights or [1.0] * len(rows)),
        answer_positions=inputs.positions,
        answer_labels=inputs.labels,
    )


def test_each_token_predicts_the_next_one_up_to_the_end() -> None:
    """Position t reads tokens 0 to t and predicts token t + 1: shifted once. [CLS] and padding are never predicted."""
    ids, mask = padded([[2, 7, SEP], [2, 8, 9, SEP], [2, SEP]])
    inputs = decoder_inputs(ids, mask)
    assert inputs.ids.tolist() == [[2, 7, SEP], [2, 8, 9], [2, SEP, 0]]
    read = inputs.ids.flatten()[inputs.positions].tolist()
    assert list(zip(read, inputs.labels.tolist(), strict=True)) == [
        (2, 7),
        (7, SEP),
        (2, 8),
        (8, 9),
        (9, SEP),
        (2, SEP),
    ]


def test_a_token_does_not_see_the_ones_after_it() -> None:
    """The states up to a token stay the same when a later token is another."""
    model, batch = make_model(), make_batch([[[7, 8, 9, 10]]])
    hidden = model.ask(batch.image.double(), batch.question_ids, batch.question_mask)
    questions = model.answer_decoder.read(hidden, batch.question_mask)
    one, other = batch.answer_ids, batch.answer_ids.clone()
    other[0, 3] = 20
    before, after = model.answer_decoder(one, questions), model.answer_decoder(other, questions)
    assert torch.equal(before[:, :3], after[:, :3]) and not torch.equal(before[:, 3], after[:, 3])


@pytest.mark.parametrize("soft", [False, True])
def test_the_loss_is_the_mean_over_questions_of_their_weighted_answers(soft: bool) -> None:
    """Two questions with three answers and one: loss and gradients are those of each answer alone, written out."""
    answers, weights = [[[7], [8, 9], [10, 11, 12]], [[13, 14]]], [0.5, 0.375, 0.125, 1.0]
    model, teacher, batch = make_model(), make_model(seed=3), make_batch(answers, weights)
    batch = dataclasses.replace(batch, image=batch.image.double(), answer_weights=batch.answer_weights.double())
    alpha = torch.tensor(0.4, dtype=torch.float64)
    targets = teacher.answer_logits(batch) if soft else None
    loss = model(batch, targets, alpha).total
    names = [name for name, _ in model.named_parameters()]
    ours = dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))

    expected = torch.zeros((), dtype=torch.float64)
    for row, question in enumerate(batch.answer_question.tolist()):
        answer = [answer for group in answers for answer in group][row]
        whole = [CONFIG.cls_token_id, *answer, SEP]
        logs = [reader(m, batch, question)(whole[:-1]).log_softmax(dim=1) for m in (model, teacher)]
        hard = -log_likelihoods(reader(model, batch, question), whole).sum()
        distilled = -(logs[1].exp().detach() * logs[0]).sum()
        expected = expected + weights[row] / 2 * (0.6 * hard + 0.4 * distilled if soft else hard)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    brute = dict(zip(names, torch.autograd.grad(expected, list(model.parameters())), strict=True))
    for name, gradient in brute.items():
        assert torch.allclose(ours[name], gradient, rtol=1e-9, atol=1e-12), name


def test_the_attention_that_a_cpu_uses_with_dropout_computes_the_same() -> None:
    """At a dropout of nearly 0: the causal mask and the questions' padding are in it, and every gradient stays."""
    batch = make_batch([[[7], [8, 9]], [[10, 11, 12]], [[13]]])
    batch = dataclasses.replace(batch, image=batch.image.double())
    gradients = []
    for dropout in (0.0, 1e-12):
        torch.manual_seed(0)
        config = dataclasses.replace(CONFIG, hidden_dropout=0.0, attention_dropout=dropout)
        model = AlbefForVqa(config).double().train()
        gradients.append(torch.autograd.grad(model(batch, None, ALPHA).total, list(model.parameters())))
    for (name, _), one, two in zip(model.named_parameters(), *gradients, strict=True):
        assert torch.allclose(one, two, rtol=1e-9, atol=1e-12), name


Reader = Callable[[list[int]], Tensor]


def reader(model: AlbefForVqa, batch: VqaBatch, question: int) -> Reader:
    """Gives the logits (T, V) of one answer to one question, which is read without its padding."""
    mask = batch.question_mask[question : question + 1]
    length = int(mask.sum())
    mask, question_ids = mask[:, :length], batch.question_ids[question : question + 1, :length]
    decoder = model.answer_decoder
    read = decoder.read(model.ask(batch.image[question : question + 1], question_ids, mask), mask)
    return lambda row: decoder.predict(decoder(torch.tensor([row]), read).flatten(0, 1)).whole()


def log_likelihoods(logits_of: Reader, row: list[int]) -> Tensor:
    """(T,) of the tokens of an answer after its [CLS]."""
    return logits_of(row[:-1]).log_softmax(dim=1).gather(1, torch.tensor(row[1:])[:, None]).squeeze(1)


CANDIDATES = [[5], [6], [7, 8], [7, 9], [7, 10, 11], [12], [13, 14], [15], [16, 17], [7]]


def candidates(order: list[int]) -> AnswerList:
    """The candidates in an order."""
    return AnswerList(*padded([[CONFIG.cls_token_id, *CANDIDATES[i], SEP] for i in order]))


@pytest.mark.parametrize("twice", [False, True])
def test_a_score_is_the_log_likelihood_of_the_whole_answer(twice: bool) -> None:
    """Against each answer alone; with the switch, its first token counts twice. Scores are in falling order."""
    model, batch = make_model(first_token_twice=twice), make_batch([[[5]], [[6]]])
    image, order = batch.image.double(), list(range(len(CANDIDATES)))
    ranked = model.rank(image, batch.question_ids, batch.question_mask, candidates(order), k=len(order))
    batch = dataclasses.replace(batch, image=image)
    for question, (places, scores) in enumerate(zip(ranked.candidates.tolist(), ranked.scores, strict=True)):
        assert sorted(places) == order
        assert torch.equal(scores, scores.sort(descending=True).values)
        logits_of = reader(model, batch, question)
        for place, score in zip(places, scores, strict=True):
            tokens = log_likelihoods(logits_of, [CONFIG.cls_token_id, *CANDIDATES[place], SEP])
            assert score.item() == pytest.approx((tokens.sum() + tokens[0].sum() * twice).item(), rel=1e-9)


def test_ranking_depends_on_neither_the_lists_order_nor_the_batch() -> None:
    """Also where four candidates start with the same token and k takes only some of them."""
    model, batch = make_model(), make_batch([[[5]], [[6]], [[7]]])
    image, forward = batch.image.double(), list(range(len(CANDIDATES)))
    inputs = (image, batch.question_ids, batch.question_mask)
    for k in range(1, len(CANDIDATES) + 1):
        ranked = model.rank(*inputs, candidates(forward), k)
        for order in (forward[::-1], forward[3:] + forward[:3]):
            again = model.rank(*inputs, candidates(order), k)
            assert torch.equal(torch.tensor(order)[again.candidates], ranked.candidates)
            torch.testing.assert_close(again.scores, ranked.scores, rtol=1e-12, atol=0)
        for i in range(3):
            image_i, ids_i, mask_i = (tensor[i : i + 1] for tensor in inputs)
            alone = model.rank(image_i, ids_i, mask_i, candidates(forward), k)
            assert torch.equal(alone.candidates[0], ranked.candidates[i])
            torch.testing.assert_close(alone.scores[0], ranked.scores[i], rtol=1e-12, atol=0)


def test_k_is_cut_to_the_list_and_wrong_lists_are_refused() -> None:
    """128 of ten candidates are all ten; none of them, an empty list and an empty answer are errors."""
    model, batch = make_model(), make_batch([[[5]]])
    inputs = (batch.image.double(), batch.question_ids, batch.question_mask)
    every = candidates(list(range(len(CANDIDATES))))
    assert model.rank(*inputs, every, k=128).candidates.shape == (1, len(CANDIDATES))
    with pytest.raises(ConfigError, match="0 candidates"):
        model.rank(*inputs, every, k=0)
    with pytest.raises(ConfigError, match="2 answers"):
        AnswerList(*padded([[2, 5, SEP], [2]]))
    with pytest.raises(ConfigError, match="list of 0 answers"):
        AnswerList(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3, dtype=torch.int64))


def test_a_wide_search_finds_the_likeliest_answer() -> None:
    """Among all answers of at most three words of a small vocabulary, enumerated; greedy takes the best word each
    time."""
    config = dataclasses.replace(CONFIG, vocab_size=6)
    torch.manual_seed(4)
    model = AlbefForVqa(config).double().eval()
    with torch.no_grad():
        model.answer_decoder.head.bias.copy_(torch.randn(6))
        model.answer_decoder.embeddings.word.weight.mul_(20)
    ids, mask = padded([[2, 5, 4], [2, 4]])
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    words = [word for word in range(1, 6) if word != SEP]
    answers = [[*start, SEP] for n in range(3) for start in itertools.product(words, repeat=n)]
    answers += [list(start) for start in itertools.product(words, repeat=3)]
    found, scores = model.generate(image, ids, mask, sep_token_id=SEP, max_tokens=3, beams=100)
    greedy, _ = model.generate(image, ids, mask, sep_token_id=SEP, max_tokens=3)
    batch = dataclasses.replace(make_batch([[[5]], [[6]]]), image=image, question_ids=ids, question_mask=mask)
    for i in range(2):
        logits_of = reader(model, batch, i)
        logs = {tuple(answer): log_likelihoods(logits_of, [2, *answer]).sum().item() for answer in answers}
        best = max(logs, key=logs.__getitem__)
        assert tuple(word for word in found[i, 1:].tolist() if word) == best
        assert scores[i].item() == pytest.approx(logs[best], rel=1e-9)
        row = [2]
        while len(row) < 4 and row[-1] != SEP:
            row.append(1 + int(logits_of(row)[-1, 1:].argmax()))  # never [PAD]
        assert [word for word in greedy[i].tolist() if word] == row


def test_ten_questions_are_learned_by_heart() -> None:
    """Ten triplets of images, questions and answers of one to three words: written and ranked without an error."""
    config = dataclasses.replace(CONFIG, hidden_dropout=0.0, attention_dropout=0.0)
    torch.manual_seed(0)
    model = AlbefForVqa(config).train()
    answers = [[20 + i, *range(30 + i, 30 + i + i % 3)] for i in range(10)]
    batch = make_batch([[answer] for answer in answers])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(batch, None, ALPHA).total.backward()
        optimizer.step()
    model.eval()
    inputs = (batch.image, batch.question_ids, batch.question_mask)
    written, _ = model.generate(*inputs, sep_token_id=SEP)
    assert [[word for word in row if word] for row in written.tolist()] == [[2, *answer, SEP] for answer in answers]
    listed = AnswerList(*padded([[2, *answer, SEP] for answer in answers]))
    assert model.rank(*inputs, listed, k=4).candidates[:, 0].tolist() == list(range(10))
