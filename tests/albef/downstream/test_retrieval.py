"""Retrieval's model: negatives are of another image, and ten pairs can be learned by heart."""

from __future__ import annotations

import torch

from albef.config import RetrievalConfig
from albef.downstream.retrieval import AlbefForRetrieval, RetrievalTeacher
from albef.inputs.retrieval_batch import RetrievalBatch
from albef.objective.queue import FeatureQueue
from tests.albef.small import CONFIG, make_batch

QUEUE_SIZE = 12


def batch_of(image_ids: list[int]) -> RetrievalBatch:
    """Random images and texts; pairs of one id have one image."""
    pairs = make_batch(size=len(image_ids))
    ids = torch.tensor(image_ids)
    return RetrievalBatch(
        image=pairs.image[ids],
        input_ids=pairs.input_ids,
        attention_mask=pairs.attention_mask,
        image_ids=ids,
        negative_draws=pairs.negative_draws,
    )


def make(momentum: float = 0.995) -> tuple[AlbefForRetrieval, RetrievalTeacher, FeatureQueue]:
    torch.manual_seed(0)
    student = AlbefForRetrieval(CONFIG, RetrievalConfig(momentum=momentum, queue_size=QUEUE_SIZE)).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)  # so that no two inputs look alike
    queue = FeatureQueue(QUEUE_SIZE, CONFIG.embed_dim, seed=1, with_ids=True)
    return student, RetrievalTeacher(student, device="cpu"), queue


def test_negatives_are_of_another_image() -> None:
    """Four pairs of two images, drawn a thousand ways: never the own image; of one image only, no negative counts."""
    student, teacher, queue = make()
    batch = batch_of([0, 1, 0, 1])
    targets, alpha = teacher.targets(batch), torch.tensor(0.4, dtype=torch.float64)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    student.multimodal_encoder.register_forward_hook(lambda _m, inputs, _o: seen.append((inputs[0], inputs[3])))
    for draw in torch.linspace(0, 0.999, 20, dtype=torch.float64):
        batch.negative_draws = draw.expand(2, 4).clone()
        student(batch, targets, queue, alpha)
        assert (batch.image_ids[seen[-1][1]] != batch.image_ids).all()
        texts = student.text_encoder(batch.input_ids, batch.attention_mask)
        others = seen[-1][0][:8].unflatten(0, (4, 2))[:, 1]  # rows: text 0, its image's negative text, text 1, ...
        drawn = [int((texts - other).abs().sum(dim=(1, 2)).argmin()) for other in others]
        assert (batch.image_ids[drawn] != batch.image_ids).all()
    alone = batch_of([0, 0, 0])
    output = student(alone, teacher.targets(alone), queue, alpha)
    positives = torch.nn.functional.cross_entropy(output.itm_logits[:3], torch.ones(3, dtype=torch.int64))
    assert torch.isfinite(output.total) and torch.allclose(output.itm, positives)


def test_ten_pairs_are_learned_by_heart() -> None:
    """With a moving teacher and a queue that fills: every text finds its image, and twenty negatives are recognised."""
    student, teacher, queue = make(momentum=0.9)
    batch = batch_of(list(range(10)))
    negatives = torch.arange(1, 11) % 10, torch.arange(3, 13) % 10  # the same in every step
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    alpha = torch.tensor(0.4, dtype=torch.float64)
    for _ in range(120):
        targets = teacher.targets(batch)
        queue.gather(targets.image_feat, targets.text_feat, batch.image_ids)
        output = student(batch, targets, queue, alpha, negative_indices=negatives)
        optimizer.zero_grad()
        output.total.backward()
        optimizer.step()
        queue.enqueue()
        teacher.update(student)
    assert torch.equal(output.sim_i2t.argmax(dim=1), torch.arange(10))
    assert torch.equal(output.sim_t2i.argmax(dim=1), torch.arange(10))
    assert output.itm_accuracy == 1 and output.itm < 0.1
