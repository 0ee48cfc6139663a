"""Retrieval against brute force, and on one rank against two and three."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch
from torch import Tensor

from albef.config import AlbefConfig
from albef.errors import CheckpointError
from albef.model import AlbefForPretraining
from pipeline.engine.distributed import World
from pipeline.tasks.retrieval.evaluation import RetrievalSet, retrieve
from tests.support.ranks import run_ranks

NUM_IMAGES, NUM_TEXTS, LENGTH = 13, 29, 9


def tiny_config() -> AlbefConfig:
    return AlbefConfig.tiny(
        image_size=16,
        vision_width=24,
        vision_depth=1,
        text_width=32,
        text_depth=1,
        fusion_depth=1,
        text_heads=2,
        text_ffn_width=48,
        embed_dim=8,
        vocab_size=50,
        cls_token_id=1,
        mask_token_id=2,
    )


def tiny_model(dtype: torch.dtype = torch.float64) -> AlbefForPretraining:
    """Random, with weights large enough that scores differ."""
    torch.manual_seed(5)
    model = AlbefForPretraining(tiny_config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.15)
    return model.to(dtype).eval()


def tiny_set(dtype: torch.dtype = torch.float64) -> RetrievalSet:
    """13 images with one to several of 29 texts each, the texts of an image not side by side, lengths 2 to 9."""
    draw = torch.Generator().manual_seed(6)
    images = torch.randn(NUM_IMAGES, 3, 16, 16, generator=draw, dtype=torch.float64).to(dtype)
    lengths = torch.randint(2, LENGTH + 1, (NUM_TEXTS,), generator=draw)
    mask = (torch.arange(LENGTH) < lengths[:, None]).long()
    ids = torch.randint(3, 50, (NUM_TEXTS, LENGTH), generator=draw) * mask
    ids[:, 0] = 1
    extra = torch.randint(NUM_IMAGES, (NUM_TEXTS - NUM_IMAGES,), generator=draw)
    to_image = torch.cat([torch.arange(NUM_IMAGES), extra])[torch.randperm(NUM_TEXTS, generator=draw)]
    return RetrievalSet(
        num_images=NUM_IMAGES,
        load_image=lambda index: images[index],
        input_ids=ids,
        attention_mask=mask,
        text_to_image=to_image,
    )


def alone() -> World:
    return World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))


@cache
def every_pair() -> tuple[list[list[float]], list[list[float]]]:
    """Similarity and matching logit of every pair of `tiny_model` and `tiny_set`, one pair at a time."""
    model, data = tiny_model(), tiny_set()
    with torch.no_grad():
        images = [model.encode_image(data.load_image(i)[None]) for i in range(NUM_IMAGES)]
        masks = [data.attention_mask[t : t + 1] for t in range(NUM_TEXTS)]
        texts = [model.encode_text(data.input_ids[t : t + 1], masks[t]) for t in range(NUM_TEXTS)]
        similarity = [[(image @ text.T).item() for _, text in texts] for _, image in images]
        matching = [
            [model.match(texts[t][0], masks[t], image)[0, 1].item() for t in range(NUM_TEXTS)] for image, _ in images
        ]
    return similarity, matching


def brute_force(k: int) -> dict[str, float]:
    """Every query ranked by a plain sort; nothing shared with the code under test."""
    data = tiny_set()
    similarity, matching = every_pair()
    to_image = data.text_to_image.tolist()
    found: dict[str, list[int]] = {"i2t": [], "t2i": [], "itc_i2t": [], "itc_t2i": []}
    for image in range(NUM_IMAGES):
        order = sorted(range(NUM_TEXTS), key=lambda t: -similarity[image][t])
        found["itc_i2t"].append(min(order.index(t) for t in range(NUM_TEXTS) if to_image[t] == image))
        order = sorted(order[:k], key=lambda t: -matching[image][t]) + order[k:]
        found["i2t"].append(min(order.index(t) for t in range(NUM_TEXTS) if to_image[t] == image))
    for text in range(NUM_TEXTS):
        order = sorted(range(NUM_IMAGES), key=lambda i: -similarity[i][text])
        found["itc_t2i"].append(order.index(to_image[text]))
        order = sorted(order[:k], key=lambda i: -matching[i][text]) + order[k:]
        found["t2i"].append(order.index(to_image[text]))
    return {
        f"{name}_recall_at_{at}": 100.0 * sum(rank < at for rank in ranks) / len(ranks)
        for name, ranks in found.items()
        for at in (1, 5, 10)
    }


@pytest.mark.parametrize("k", [1, 4, NUM_IMAGES, 20, NUM_TEXTS, 100])
@pytest.mark.parametrize("batch_size", [4, 64])
def test_recalls_equal_brute_force(k, batch_size):
    """Fewer candidates than texts, as many as images, more than there are of either: twelve recalls, all exact."""
    model, data = tiny_model(), tiny_set()
    metrics = retrieve(model, data, world=alone(), k_test=k, batch_size=batch_size).metrics()
    assert {name: value for name, value in metrics.items() if not name.startswith("chance_")} == pytest.approx(
        brute_force(k), abs=1e-12
    )


def test_reranking_moves_the_recalls():
    """The brute-force cases above distinguish the two stages: with every candidate re-ranked the numbers differ."""
    wanted = brute_force(NUM_TEXTS)
    assert any(wanted[name] != wanted[f"itc_{name}"] for name in wanted if not name.startswith("itc_"))


def test_scores_are_the_matching_logits_of_the_candidates():
    """Both tables hold, for each candidate, what `match` gives for that one pair (float64: 1e-12)."""
    result = retrieve(tiny_model(), tiny_set(), world=alone(), k_test=5, batch_size=3)
    _, matching = every_pair()
    for text in range(NUM_TEXTS):
        for place, image in enumerate(result.t2i_candidates[text].tolist()):
            assert result.t2i_scores[text, place].item() == pytest.approx(matching[image][text], abs=1e-12)
    for image in range(NUM_IMAGES):
        for place, text in enumerate(result.i2t_candidates[image].tolist()):
            assert result.i2t_scores[image, place].item() == pytest.approx(matching[image][text], abs=1e-12)


def test_chance_is_what_a_random_order_gives():
    """4,000 random orders: within four standard errors of the formulas (with one caption and with several)."""
    data = tiny_set()
    chance = retrieve(tiny_model(), data, world=alone(), k_test=1).metrics()
    draw = torch.Generator().manual_seed(0)
    trials = 4000
    hits = dict.fromkeys((1, 5, 10), 0.0)
    for _ in range(trials):
        place = torch.rand(NUM_TEXTS, generator=draw).argsort()
        best = torch.full((NUM_IMAGES,), NUM_TEXTS).scatter_reduce(0, data.text_to_image, place, "amin")
        for at in hits:
            hits[at] += (best < at).double().mean().item() / trials
    for at, share in hits.items():  # 0.14 = 0.5 / sqrt(13): at most, the deviation of one order's share of 13 images
        assert chance[f"chance_i2t_recall_at_{at}"] == pytest.approx(100 * share, abs=100 * 4 * 0.14 / trials**0.5)
        assert chance[f"chance_t2i_recall_at_{at}"] == pytest.approx(100 * at / NUM_IMAGES)


def results_of(rank: int, size: int, dtype: torch.dtype, batch_size: int) -> tuple[dict[str, float], list[Tensor]]:
    """One rank's metrics and tables."""
    world = World(rank=rank, local_rank=rank, size=size, device=torch.device("cpu"))
    result = retrieve(tiny_model(dtype), tiny_set(dtype), world=world, k_test=6, batch_size=batch_size)
    tables = [result.i2t_candidates, result.t2i_candidates, result.i2t_scores, result.t2i_scores]
    return result.metrics(), tables


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_ranks_equal_one_to_the_bit(dtype):
    """Blocks over one rank, over two, and over three (which get unequal shares): the same tables on every rank."""
    torch.set_num_threads(1)  # as the ranks have: another split of a product is another rounding
    metrics, tables = results_of(0, 1, dtype, 3)
    for size in (2, 3):
        for rank, (other_metrics, other_tables) in enumerate(run_ranks(results_of, size, dtype, 3)):
            assert other_metrics == metrics, f"rank {rank} of {size}"
            for mine, theirs in zip(tables, other_tables, strict=True):
                assert torch.equal(mine, theirs), f"rank {rank} of {size}"


def with_few_images(rank: int, size: int) -> dict[str, float]:
    """One rank's metrics on the first two images and their texts."""
    world, data = World(rank=rank, local_rank=rank, size=size, device=torch.device("cpu")), tiny_set()
    kept = data.text_to_image < 2
    few = dataclasses.replace(
        data,
        num_images=2,
        input_ids=data.input_ids[kept],
        attention_mask=data.attention_mask[kept],
        text_to_image=data.text_to_image[kept],
    )
    return retrieve(tiny_model(), few, world=world, k_test=4).metrics()


def test_a_rank_without_work_takes_part():
    """Two images on three ranks: the third encodes none, matches none, and has the same result."""
    alone_metrics = with_few_images(0, 1)
    assert run_ranks(with_few_images, 3) == [alone_metrics] * 3


def test_ties_go_to_the_lower_index():
    """All similarities and scores equal: image i finds its text at the text's own place, not at the top."""
    model, data = tiny_model(), tiny_set()
    with torch.no_grad():
        for head in (model.image_proj, model.text_proj, model.itm_head):
            head.weight.zero_()
            head.bias.copy_(torch.eye(len(head.bias))[0])  # features (1, 0, ...): similarities of exactly 1
    result = retrieve(model, data, world=alone(), k_test=4)
    first_text = [data.text_to_image.tolist().index(image) for image in range(NUM_IMAGES)]
    assert result.i2t_ranks.tolist() == first_text
    assert result.t2i_ranks.tolist() == data.text_to_image.tolist()


def test_features_that_are_not_finite_are_refused():
    """A diverged model gets an error with a hint, not a recall of 100%."""
    model = tiny_model()
    with torch.no_grad():
        model.text_proj.bias[0] = float("nan")
    with pytest.raises(CheckpointError, match="text features are not finite"):
        retrieve(model, tiny_set(), world=alone(), k_test=4)
