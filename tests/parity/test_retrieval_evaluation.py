"""Zero-shot retrieval against the original's recorded evaluation: candidates, matching scores, recalls."""

from __future__ import annotations

import json

import pytest
import torch

from albef.model import AlbefForPretraining
from albef.weights.official import from_official
from pipeline.engine.distributed import World
from pipeline.tasks.retrieval.evaluation import RetrievalResult, RetrievalSet, ranks_after, recall, retrieve
from tests.parity import goldens

NOT_A_CANDIDATE = -100.0
"""What the original leaves as the score of a pair that was not among the k best."""


def evaluated(golden: goldens.Golden, dtype: torch.dtype) -> RetrievalResult:
    """The recorded retrieval model (which has no MLM head) on the recorded images and texts."""
    config = goldens.model_config(golden)
    weights = from_official(
        golden.under("state/"), vision_heads=config.vision_heads, text_heads=config.text_heads
    ).student
    model = AlbefForPretraining(config).to(dtype).eval()
    left_out = model.load_state_dict(weights, strict=False).missing_keys
    assert {name.split(".")[0] for name in left_out} <= {"mlm_head"}
    images = golden["in/eval_image"]
    data = RetrievalSet(
        num_images=len(images),
        load_image=lambda index: images[index],
        input_ids=golden["in/eval_input_ids"],
        attention_mask=golden["in/eval_attention_mask"],
        text_to_image=golden["in/eval_txt2img"],
    )
    world = World(rank=0, local_rank=0, size=1, device=torch.device("cpu"))
    return retrieve(model, data, world=world, k_test=int(golden["in/eval_k"]), batch_size=3)


def test_scores_and_recalls_equal_the_recorded_ones():
    """float64: the same candidates, their scores to 1e-9; recalls up to k, beyond which the original's order is what
    its sort leaves of many equal scores."""
    golden = goldens.load("retrieval_tiny")
    result = evaluated(golden, torch.float64)
    for name, candidates, scores in (
        ("i2t", result.i2t_candidates, result.i2t_scores),
        ("t2i", result.t2i_candidates, result.t2i_scores),
    ):
        recorded = golden[f"eval/score_{name}"]
        ours = torch.full_like(recorded, NOT_A_CANDIDATE).scatter(1, candidates, scores)
        worst = (ours - recorded).abs().max().item()
        assert worst < goldens.EXACT, f"score_{name} differs by {worst}"
    metrics = result.metrics()
    for at in (at for at in (1, 5, 10) if at <= int(golden["in/eval_k"])):
        assert metrics[f"i2t_recall_at_{at}"] == pytest.approx(golden.info["eval_metrics"][f"txt_r{at}"])
        assert metrics[f"t2i_recall_at_{at}"] == pytest.approx(golden.info["eval_metrics"][f"img_r{at}"])


def test_float32_scores_are_within_the_recorded_noise():
    """The pairs that are candidates in both: ten times the original's own float32 error."""
    golden = goldens.load("retrieval_tiny")
    result = evaluated(golden, torch.float32)
    for name, candidates, scores in (
        ("i2t", result.i2t_candidates, result.i2t_scores),
        ("t2i", result.t2i_candidates, result.t2i_scores),
    ):
        recorded = golden[f"eval/score_{name}"].gather(1, candidates)
        difference = (scores.double() - recorded)[recorded > NOT_A_CANDIDATE].abs()
        assert len(difference) > 0.9 * scores.numel()  # a near tie may swap the last candidate
        assert difference.max() < goldens.NOISE_FACTOR * golden.noise(f"eval/score_{name}"), name


def test_recalls_of_given_scores_equal_the_recorded_ones():
    """The original's recall of score matrices (six images and twenty), every text and image a candidate."""
    for case in json.loads((goldens.folder() / "eval_metrics.json").read_text())["itm_eval"]:
        to_image = torch.tensor(case["txt2img"])
        i2t, t2i = torch.tensor(case["scores_i2t"]).double(), torch.tensor(case["scores_t2i"]).double()
        unused = torch.full((max(i2t.shape),), -1)  # rank by similarity, for queries without a candidate that is right
        own_texts = to_image[None, :] == torch.arange(len(i2t))[:, None]
        own_image = torch.arange(len(i2t))[None, :] == to_image[:, None]
        for at in (1, 5, 10):
            of_images = recall(ranks_after(i2t, own_texts, unused[: len(i2t)]), at)
            of_texts = recall(ranks_after(t2i, own_image, unused[: len(t2i)]), at)
            assert of_images == pytest.approx(case["result"][f"txt_r{at}"])
            assert of_texts == pytest.approx(case["result"][f"img_r{at}"])
