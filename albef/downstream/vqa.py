"""Visual question answering: a fused question, answered by a decoder (paper, section 4)."""

# B questions, P patches, L question tokens, R answers, T answer tokens, N words to predict, H width, C candidates
# k candidates of a question that are ranked, V vocabulary, D image width

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from albef.config import AlbefConfig, VqaConfig
from albef.downstream.answer_decoder import AnswerDecoder, Questions
from albef.downstream.teacher import WholeModelTeacher
from albef.errors import ConfigError
from albef.inputs.vqa_batch import VqaBatch, decoder_inputs, weighted_token_losses
from albef.kernels.dispatch import Impl
from albef.kernels.mlm import WordLogits, mlm_token_losses
from albef.network.encoders import ImageTextEncoders
from albef.precision import at_least_fp32


class VqaOutput(NamedTuple):
    """The loss of one micro-batch, in nats, fp32 at least. A tuple, as DeepSpeed's hooks need."""

    total: Tensor
    """Scalar: the answers' losses by weight, summed, over the number of questions. Backward starts here."""
    token_losses: Tensor
    """(N,) of each word to predict, without gradient."""


class RankedAnswers(NamedTuple):
    """The k likeliest candidates of each question, the best first."""

    candidates: Tensor
    """(B, k) int64, indices into the list of candidates."""
    scores: Tensor
    """(B, k) fp32 at least: log-likelihood of the answer, in nats; with `first_token_twice` its first token's is added
    again."""

    @property
    def probabilities(self) -> Tensor:
        """(B, k), of the answers among the ranked ones."""
        return self.scores.softmax(dim=1)


class AlbefForVqa(ImageTextEncoders):
    """The three encoders, and an answer decoder that attends to the fused question."""

    def __init__(self, config: AlbefConfig, objective: VqaConfig | None = None) -> None:
        super().__init__(config)
        self.objective = objective or VqaConfig()
        self.answer_decoder = AnswerDecoder(config)
        self.kernels: Impl = "auto"
        """Version of the fused kernels of the loss, and of its teacher's average."""

    def ask(self, image: Tensor, question_ids: Tensor, question_mask: Tensor) -> Tensor:
        """Fused question states (B, L, H) of normalised pixels (B, 3, H, W) and (B, L) ids under a 1 / 0 mask."""
        image_embeds = self.image_encoder(image)  # (B, 1+P, D)
        text_embeds = self.text_encoder(question_ids, question_mask)  # (B, L, H)
        fused: Tensor = self.multimodal_encoder(text_embeds, question_mask, image_embeds)
        return fused

    def answer_logits(self, batch: VqaBatch) -> WordLogits:
        """Logits (N, V), in factors, of the words of a micro-batch's answers."""
        states = self.ask(batch.image, batch.question_ids, batch.question_mask)
        questions = self.answer_decoder.read(states, batch.question_mask, batch.answer_question)
        return self.answer_decoder.predict(self.answer_decoder(batch.answer_ids, questions, batch.answer_positions))

    def forward(self, batch: VqaBatch, targets: WordLogits | None, alpha: Tensor) -> VqaOutput:
        """The training loss of one micro-batch.

        Args:
            batch: on the model's device, normalised.
            targets: `VqaTeacher.targets` of the same batch, or None for hard targets.
            alpha: 0-d float64 on the model's device, weight of the teacher's soft targets, in [0, 1].
        """
        words = self.answer_logits(batch)
        losses = mlm_token_losses(words, batch.answer_labels, targets, alpha, impl=self.kernels)  # (N,)
        return VqaOutput(weighted_token_losses(losses, batch), losses.detach())

    @torch.no_grad()
    def rank(
        self, image: Tensor, question_ids: Tensor, question_mask: Tensor, answers: AnswerList, k: int
    ) -> RankedAnswers:
        """Rank candidates: the k whose first tokens are the likeliest, by the likelihood of the whole answer.

        Neither the order of the list nor the batch changes a score beyond rounding: among answers that start with the
        same token, those that come first in the order of their token ids are taken.

        Args:
            image: (B, 3, H, W) normalised pixels.
            question_ids, question_mask: (B, L).
            answers: the candidates, on the model's device.
            k: candidates of each question that are read whole; at most all of the list.

        Raises:
            ConfigError: k is below 1.
        """
        if k < 1:
            raise ConfigError(f"answers of {k} candidates cannot be ranked", "give k of at least 1; the paper's is 128")
        questions = self.answer_decoder.read(self.ask(image, question_ids, question_mask), question_mask)
        size, k = len(image), min(k, len(answers))
        start = answers.ids[:1, :1].expand(size, 1)  # [CLS] of each question
        first = self._next_words(start, questions).index_select(1, answers.first_tokens)  # (B, C)
        # stable: equal ones stay in the order of the list, which is sorted
        chosen = first.argsort(dim=1, descending=True, stable=True)[:, :k]  # (B, k)
        ids, positions, labels = answers.inputs(chosen.flatten())
        states = self.answer_decoder(ids, questions, positions)  # (N, H)
        losses = mlm_token_losses(self.answer_decoder.predict(states), labels, impl=self.kernels)
        scores = losses.new_zeros(size * k).index_add_(0, positions // ids.shape[1], losses).neg_().view(size, k)
        if self.objective.first_token_twice:
            scores = scores + first.gather(1, chosen)
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        return RankedAnswers(answers.places[chosen.gather(1, order)], scores)

    @torch.no_grad()
    def generate(
        self,
        image: Tensor,
        question_ids: Tensor,
        question_mask: Tensor,
        *,
        sep_token_id: int,
        max_tokens: int = 10,
        beams: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Write an answer to each question, word by word until [SEP].

        Args:
            image: (B, 3, H, W) normalised pixels.
            question_ids, question_mask: (B, L).
            sep_token_id: ends an answer.
            max_tokens: at most this many words, [SEP] included.
            beams: partial answers kept at a time; 1 takes the likeliest word of each step.

        Returns: ids (B, 1 + max_tokens or fewer), [CLS] first, [PAD] after [SEP]; and the log-likelihood of each
        answer (B,), in nats, not divided by its length. An answer that is not finished ends without [SEP].
        """
        if beams < 1 or max_tokens < 1:
            raise ConfigError(f"{beams} beams of {max_tokens} words generate nothing", "give both at least 1")
        size, pad = len(image), self.config.pad_token_id
        read = self.answer_decoder.read(self.ask(image, question_ids, question_mask), question_mask)
        rows = torch.arange(size, device=image.device)
        ids = torch.full((size, 1, 1), self.config.cls_token_id, device=image.device)  # (B, beams, length)
        scores: Tensor | None = None  # (B, beams)
        for _ in range(max_tokens):
            words = self._next_words(ids.flatten(0, 1), read).unflatten(0, (size, -1))  # (B, beams, V)
            words[..., pad] = -torch.inf
            scores = words.new_zeros(ids.shape[:2]) if scores is None else scores
            finished = (ids == sep_token_id).any(dim=2)  # (B, beams)
            stay = torch.full_like(words, -torch.inf)
            stay[..., pad] = 0  # a finished answer continues with [PAD] alone, at no cost
            total = scores[..., None] + words.where(~finished[..., None], stay)
            scores, best = total.flatten(1).topk(min(beams, total[0].numel()), dim=1)  # (B, beams)
            beam, word = best // words.shape[2], best % words.shape[2]
            ids = torch.cat([ids[rows[:, None], beam], word[..., None]], dim=2)
            if bool((ids == sep_token_id).any(dim=2).all()):
                break
        assert scores is not None
        return ids[:, 0], scores[:, 0]

    def _next_words(self, ids: Tensor, questions: Questions) -> Tensor:
        """Log-probabilities (R, V) of the word after each partial answer (R, T), fp32 at least."""
        rows, length = ids.shape
        last = torch.arange(length - 1, rows * length, length, device=ids.device)
        words = self.answer_decoder.predict(self.answer_decoder(ids, questions, last)).whole()
        return at_least_fp32(words).log_softmax(dim=1)


class VqaTeacher(WholeModelTeacher[AlbefForVqa]):
    """The momentum teacher."""

    @torch.no_grad()
    def targets(self, batch: VqaBatch) -> WordLogits:
        """The teacher's logits (N, V) of the answers' words, in factors with its own weights: take the backward before
        `update`."""
        return self.model.answer_logits(batch)


class AnswerList:
    """Candidate answers as `AlbefForVqa.rank` reads them, in the order of their token ids.

    Args:
        ids: (C, T+1) tokens of whole answers, `[CLS] answer [SEP]`, padded at the end.
        mask: (C, T+1) 1 / 0.

    Raises:
        ConfigError: there is no candidate, or one without a token after [CLS].
    """

    def __init__(self, ids: Tensor, mask: Tensor) -> None:
        lengths = mask.sum(dim=1)
        if not len(ids) or int(lengths.min()) < 2:
            raise ConfigError(
                f"a list of {len(ids)} answers cannot be ranked: it is empty, or an answer is",
                "give answers with at least one token after [CLS]; each ends in [SEP]",
            )
        rows = (ids * mask)[:, : int(lengths.max())].tolist()
        order = sorted(range(len(rows)), key=rows.__getitem__)
        self.places = torch.tensor(order, device=ids.device)
        """(C,) where each stands in the list that was given."""
        self.ids, self.mask = (tensor.index_select(0, self.places) for tensor in (ids, mask))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def first_tokens(self) -> Tensor:
        """(C,) the token after [CLS]."""
        return self.ids[:, 1]

    def to(self, device: torch.device | str) -> AnswerList:
        """The same list on a device."""
        moved = object.__new__(AnswerList)
        moved.places, moved.ids, moved.mask = (tensor.to(device) for tensor in (self.places, self.ids, self.mask))
        return moved

    def inputs(self, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`decoder_inputs` of the chosen candidates (R,), cut to the longest of them."""
        mask = self.mask.index_select(0, chosen)
        longest = int(mask.sum(dim=1).max())
        return decoder_inputs(self.ids.index_select(0, chosen)[:, :longest], mask[:, :longest])
