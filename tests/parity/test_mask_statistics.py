"""Sampling, which injection cannot check: our rates of masking and of negatives against the recorded ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.objective.masking import mask_tokens
from albef.objective.negatives import draw_negatives
from tests.parity.goldens import load

SIGMAS = 5
"""Of a binomial: one correct run in 1.7 million fails a single comparison."""
SEP = 102
"""[SEP] of bert-base-uncased."""


def test_mask_rates() -> None:
    """Chosen, masked, random and kept shares agree within the noise of both counts; never is [CLS] or [PAD] chosen."""
    recorded = load("mask_statistics").info
    config = AlbefConfig.base()
    generator = torch.Generator().manual_seed(0)
    rows, length = 2000, 32
    input_ids = torch.randint(1000, config.vocab_size, (rows, length), generator=generator)
    lengths = torch.randint(20, length + 1, (rows, 1), generator=generator)
    places = torch.arange(length)
    input_ids[:, 0] = config.cls_token_id
    input_ids[places == lengths - 1] = SEP
    input_ids[places >= lengths] = config.pad_token_id
    masked = mask_tokens(input_ids, config=config, probability=0.15, generator=generator)

    chosen = torch.zeros(rows * length, dtype=torch.bool)
    chosen[masked.mlm_positions] = True
    chosen = chosen.view(rows, length)
    before, after = input_ids[chosen], masked.mlm_input_ids[chosen]
    hidden, kept = after == config.mask_token_id, after == before
    maskable = (input_ids != config.pad_token_id) & (input_ids != config.cls_token_id)
    _same_rate("selected", chosen[maskable], recorded["frac_selected"], recorded["n_maskable"])
    num_selected = round(recorded["frac_selected"] * recorded["n_maskable"])
    _same_rate("masked", hidden, recorded["frac_of_selected_masked"], num_selected)
    _same_rate("kept", kept, recorded["frac_of_selected_kept"], num_selected)
    _same_rate("random", ~hidden & ~kept, recorded["frac_of_selected_random"], num_selected)
    is_sep = input_ids == SEP
    _same_rate("selected [SEP]", chosen[is_sep], recorded["sep_selected"] / recorded["n_sep"], recorded["n_sep"])
    assert int(chosen[~maskable].sum()) == recorded["cls_selected"] + recorded["pad_selected"]
    assert torch.equal(masked.mlm_input_ids[~chosen], input_ids[~chosen]) == recorded["unselected_unchanged"]
    assert torch.equal(masked.mlm_labels, before) == recorded["labels_equal_original_where_selected"]

    random_words = after[~hidden & ~kept]
    # uniform over n of V words: the smallest of n draws is above 20 V / n once in e^20 runs
    slack = 20 * config.vocab_size / len(random_words)
    assert random_words.min() < slack and random_words.max() > config.vocab_size - slack
    assert recorded["random_words_min"] < slack and recorded["random_words_max"] > config.vocab_size - slack
    _same_rate("lower half", random_words < config.vocab_size // 2, 0.5, 10**9)


def test_negatives_follow_the_recorded_weights() -> None:
    """Drawn frequencies agree with the recorded softmax, its diagonal taken out and the rest normalised."""
    golden = load("pretrain_tiny")
    generator = torch.Generator().manual_seed(0)
    for way in ("i2t", "t2i"):
        weights = golden[f"out/weights_{way}"]
        weights = weights / weights.sum(dim=1, keepdim=True)
        size = len(weights)
        similarity = golden[f"out/sim_{way}"][:, :size]
        counts = torch.zeros(size, size)
        rounds = 4_000
        for draws in torch.rand(rounds, size, generator=generator, dtype=torch.float64).split(1):
            drawn, _ = draw_negatives(similarity, draws[0])
            counts[torch.arange(size), drawn] += 1
        for row in range(size):
            for column in range(size):
                share, expected = float(counts[row, column]) / rounds, float(weights[row, column])
                bound = SIGMAS * math.sqrt(expected * (1 - expected) / rounds) + 1 / rounds
                assert abs(share - expected) <= bound, f"{way}[{row}, {column}]: {share}, expected {expected}"


def _same_rate(name: str, ours: Tensor, recorded: float, recorded_count: int) -> None:
    """Two binomial rates agree: the difference is within SIGMAS of its standard deviation."""
    rate = float(ours.double().mean())
    spread = math.sqrt(recorded * (1 - recorded) * (1 / ours.numel() + 1 / recorded_count))
    assert abs(rate - recorded) <= SIGMAS * spread, f"{name}: {rate:.4f}, recorded {recorded:.4f}, spread {spread:.4f}"
