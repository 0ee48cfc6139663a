"""Masking: what may be chosen, what it becomes, and that the draw is a function of the generator."""

from __future__ import annotations

import torch

from albef.config import AlbefConfig
from albef.objective.masking import mask_tokens

CONFIG = AlbefConfig.tiny(vocab_size=50, pad_token_id=0, cls_token_id=2, mask_token_id=4)
IDS = torch.tensor([[2, 11, 12, 13, 3], [2, 21, 3, 0, 0]])  # 3 is [SEP]


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_certain_choice_takes_everything_but_padding_and_cls() -> None:
    """At probability 1 every token is predicted, [SEP] too, but no [CLS] and no [PAD]."""
    masked = mask_tokens(IDS, config=CONFIG, probability=1.0, generator=generator(0))
    assert masked.mlm_positions.tolist() == [1, 2, 3, 4, 6, 7]
    assert masked.mlm_labels.tolist() == [11, 12, 13, 3, 21, 3]
    assert masked.mlm_input_ids[:, 0].tolist() == [2, 2] and masked.mlm_input_ids[1, 3:].tolist() == [0, 0]


def test_no_choice_leaves_nothing_to_predict() -> None:
    """At probability 0 the ids are unchanged and there are no positions: the loss of such a batch is defined as 0."""
    masked = mask_tokens(IDS, config=CONFIG, probability=0.0, generator=generator(0))
    assert torch.equal(masked.mlm_input_ids, IDS)
    assert masked.mlm_positions.shape == masked.mlm_labels.shape == (0,)


def test_given_choice_and_replacements_are_used_as_they_are() -> None:
    """An injected mask and injected ids replace every draw."""
    chosen = torch.tensor([[False, True, False, False, True], [False, True, False, False, False]])
    replacements = torch.full_like(IDS, 33)
    masked = mask_tokens(
        IDS, config=CONFIG, probability=0.5, generator=generator(0), chosen=chosen, replacements=replacements
    )
    assert masked.mlm_input_ids.tolist() == [[2, 33, 12, 13, 33], [2, 33, 3, 0, 0]]
    assert masked.mlm_positions.tolist() == [1, 4, 6]
    assert masked.mlm_labels.tolist() == [11, 3, 21]


def test_draws_depend_on_the_generator_only() -> None:
    """One seed gives one mask, without a look at torch's global generator; another seed gives another."""
    ids = torch.randint(5, 50, (64, 16), generator=generator(1))
    torch.manual_seed(1)
    first = mask_tokens(ids, config=CONFIG, probability=0.3, generator=generator(7))
    torch.manual_seed(2)
    again = mask_tokens(ids, config=CONFIG, probability=0.3, generator=generator(7))
    other = mask_tokens(ids, config=CONFIG, probability=0.3, generator=generator(8))
    assert torch.equal(first.mlm_input_ids, again.mlm_input_ids)
    assert torch.equal(first.mlm_positions, again.mlm_positions)
    assert first.mlm_positions.tolist() != other.mlm_positions.tolist()


def test_given_uniforms_decide_token_by_token() -> None:
    """Choice below the probability; kind below 0.8 hides, below 0.9 replaces by the word's place, above keeps."""
    draws = torch.full((*IDS.shape, 3), 0.99, dtype=torch.float64)
    draws[0, 1] = torch.tensor([0.1, 0.79, 0.0])
    draws[0, 2] = torch.tensor([0.1, 0.85, 0.501])
    draws[0, 3] = torch.tensor([0.1, 0.95, 0.0])
    draws[1, 0] = torch.tensor([0.1, 0.0, 0.0])  # [CLS]
    masked = mask_tokens(IDS, config=CONFIG, probability=0.15, draws=draws)
    assert masked.mlm_input_ids.tolist() == [[2, 4, 25, 13, 3], [2, 21, 3, 0, 0]]
    assert masked.mlm_positions.tolist() == [1, 2, 3]


def test_later_draws_do_not_depend_on_what_was_chosen() -> None:
    """The same amount is drawn for all texts and choices, so streams after it stay aligned."""
    used = []
    for ids, probability in ((IDS, 0.0), (IDS + 5, 1.0)):
        source = generator(3)
        mask_tokens(ids, config=CONFIG, probability=probability, generator=source)
        used.append(torch.rand(1, generator=source).item())
    assert used[0] == used[1]
