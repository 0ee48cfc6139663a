"""Zero-shot retrieval both ways: contrastive similarity first, the matching head on the best k of it (paper, 3.1).

The ranks divide the images: a rank encodes its images, and scores every pair of them with the matching head, for both
directions. So image embeddings, by far the largest tensors here, are never sent, and a pair that both directions need
is scored once. Images and texts are cut into blocks of at most `batch_size`; block b belongs to rank b % size, and
nothing is computed across blocks, so that any number of ranks does the same arithmetic.
"""

# I images, T texts, k candidates, E embedding, P patches, D image width, L text tokens, H text width

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import torch
import torch.distributed as dist
from torch import Tensor

from albef.downstream.retrieval import AlbefForRetrieval
from albef.errors import CheckpointError
from albef.model import AlbefForPretraining
from pipeline.data.image_blocks import loaded_blocks
from pipeline.engine.distributed import World
from pipeline.task import Progress

RetrievalModel = AlbefForPretraining | AlbefForRetrieval
"""What has the two projections and the matching head."""

RECALL_AT = (1, 5, 10)
MIN_BLOCKS = 8
"""Smallest number of blocks, at any batch size, so that up to this many ranks share a small set."""
PAIRS_AT_ONCE = 512
"""Texts matched with an image in one pass; bounds the memory of the multimodal encoder."""
SHARED_AT_ONCE = 64 * 2**20
"""Elements all-reduced at once; bounds the memory of passing through the device."""


@dataclass(frozen=True, kw_only=True)
class RetrievalSet:
    """The images and texts to match."""

    num_images: int
    load_image: Callable[[int], Tensor]
    """Image i as the model's input, (3, H, W). Called from threads."""
    input_ids: Tensor
    """(T, L) int64, [CLS] first, padded."""
    attention_mask: Tensor
    """(T, L) 1 / 0."""
    text_to_image: Tensor
    """(T,) int64, the image each text describes; every image has at least one text."""

    @property
    def num_texts(self) -> int:
        return len(self.text_to_image)


@dataclass(frozen=True, kw_only=True)
class RetrievalResult:
    """Candidates, matching scores and ranks, equal on every rank, on the CPU.

    Ties: of two equal similarities the lower index comes first, of two equal matching scores the one with the higher
    similarity. Keys that are not among the k candidates follow them in order of similarity, so that recall beyond k
    is defined; the original gives them a score of -100, and their order depends on its sort.
    """

    text_to_image: Tensor
    """(T,)"""
    i2t_candidates: Tensor
    """(I, min(k, T)) texts for each image, the most similar first."""
    t2i_candidates: Tensor
    """(T, min(k, I)) images for each text."""
    i2t_scores: Tensor
    """(I, min(k, T)) matching logits (class 1) of those."""
    t2i_scores: Tensor
    """(T, min(k, I))"""
    i2t_itc_ranks: Tensor
    """(I,) rank by similarity, from 0, of the best ranked of the image's own texts."""
    t2i_itc_ranks: Tensor
    """(T,) rank by similarity of the text's image."""

    @property
    def i2t_ranks(self) -> Tensor:
        """(I,) the same after re-ranking."""
        own = self.text_to_image[self.i2t_candidates] == torch.arange(len(self.i2t_candidates))[:, None]
        return ranks_after(self.i2t_scores, own, self.i2t_itc_ranks)

    @property
    def t2i_ranks(self) -> Tensor:
        """(T,) the same after re-ranking."""
        own = self.t2i_candidates == self.text_to_image[:, None]
        return ranks_after(self.t2i_scores, own, self.t2i_itc_ranks)

    def metrics(self) -> dict[str, float]:
        """Recalls in percent after re-ranking, before it (`itc_`), and of a random order (`chance_`)."""
        num_images, num_texts = len(self.i2t_candidates), len(self.text_to_image)
        texts_of = torch.bincount(self.text_to_image, minlength=num_images).tolist()
        values: dict[str, float] = {}
        for prefix, i2t, t2i in (
            ("", self.i2t_ranks, self.t2i_ranks),
            ("itc_", self.i2t_itc_ranks, self.t2i_itc_ranks),
        ):
            values |= {f"{prefix}i2t_recall_at_{at}": recall(i2t, at) for at in RECALL_AT}
            values |= {f"{prefix}t2i_recall_at_{at}": recall(t2i, at) for at in RECALL_AT}
        for at in RECALL_AT:
            misses = [comb(num_texts - own, at) / max(1, comb(num_texts, at)) for own in texts_of]
            enough = at >= num_texts
            values[f"chance_i2t_recall_at_{at}"] = 100.0 if enough else 100.0 * (1.0 - sum(misses) / num_images)
            values[f"chance_t2i_recall_at_{at}"] = 100.0 * min(at, num_images) / num_images
        return values


def recall(ranks: Tensor, at: int) -> float:
    """Percent of the queries whose rank, counted from 0, is below `at`."""
    return 100.0 * (ranks < at).double().mean().item()


def ranks_after(scores: Tensor, own: Tensor, itc_ranks: Tensor) -> Tensor:
    """(N,) ranks of the best ranked right answer once the first k are sorted by matching score.

    Args:
        scores: (N, k) of the candidates, the most similar first.
        own: (N, k) True for candidates that are right answers.
        itc_ranks: (N,) rank by similarity, which is kept where no right answer is among the candidates.
    """
    order = scores.argsort(dim=1, descending=True, stable=True)
    own = own.gather(1, order)
    return torch.where(own.any(dim=1), own.int().argmax(dim=1), itc_ranks)  # argmax: the first of equals


@torch.no_grad()
def retrieve(
    model: RetrievalModel,
    data: RetrievalSet,
    *,
    world: World,
    k_test: int,
    batch_size: int = 64,
    num_workers: int | None = None,
    progress: Progress | None = None,
) -> RetrievalResult:
    """Match every image with every text; a collective, to be called on all ranks with equal arguments.

    Args:
        model: on `world.device`, in eval mode (dropout would be drawn otherwise).
        k_test: candidates per query that the matching head re-ranks; the original's configurations have 128 for
            Flickr30k and 256 for COCO.
        batch_size: largest number of images, or texts, encoded at once.
        num_workers: threads that load images; by default one per core, at most 8.
        progress: called after each block of this rank.

    Raises: CheckpointError when the model's features are not finite; DataError when an image cannot be read.
    """
    report = progress or (lambda what, done, total: None)
    image_blocks, text_blocks = _blocks(data.num_images, batch_size), _blocks(data.num_texts, batch_size)
    own_images, own_texts = image_blocks[world.rank :: world.size], text_blocks[world.rank :: world.size]

    text_embeds, text_feats = _encode_texts(model, data, own_texts, world, report)
    image_embeds, image_feats = _encode_images(model, data, own_images, world, num_workers, report)
    for name, feats in (("image", image_feats), ("text", text_feats)):
        if not bool(feats.isfinite().all()):
            raise CheckpointError(
                f"the model's {name} features are not finite",
                "its weights are damaged, or training diverged: use an earlier checkpoint",
            )
    to_image = data.text_to_image.to(world.device)
    i2t_candidates, i2t_itc_ranks = _candidates(
        image_feats, text_feats, own_images, k_test, world, lambda rows, order: to_image[order] == rows[:, None]
    )
    t2i_candidates, t2i_itc_ranks = _candidates(
        text_feats, image_feats, own_texts, k_test, world, lambda rows, order: order == to_image[rows][:, None]
    )
    mine = [image for block in own_images for image in block]
    i2t_scores, t2i_scores = _match(
        model, data, mine, image_embeds, text_embeds, i2t_candidates.cpu(), t2i_candidates.cpu(), world, report
    )
    return RetrievalResult(
        text_to_image=data.text_to_image,
        i2t_candidates=i2t_candidates.cpu(),
        t2i_candidates=t2i_candidates.cpu(),
        i2t_scores=i2t_scores,
        t2i_scores=t2i_scores,
        i2t_itc_ranks=i2t_itc_ranks.cpu(),
        t2i_itc_ranks=t2i_itc_ranks.cpu(),
    )


def _blocks(total: int, size: int) -> list[range]:
    size = min(size, -(-total // MIN_BLOCKS))
    return [range(start, min(start + size, total)) for start in range(0, total, size)]


def _encode_texts(
    model: RetrievalModel, data: RetrievalSet, blocks: list[range], world: World, report: Progress
) -> tuple[Tensor, Tensor]:
    """Embeddings (T, L, H) on the device or the CPU, and features (T, E) on the device, of all ranks' texts."""
    config, dtype = model.config, model.text_proj.weight.dtype
    shape = (*data.input_ids.shape, config.text_width)
    embeds = torch.zeros(shape, dtype=dtype, device=_room_for(shape, dtype, world.device))
    feats = torch.zeros(data.num_texts, config.embed_dim, dtype=_feature_dtype(dtype), device=world.device)
    for number, block in enumerate(blocks):
        rows = slice(block.start, block.stop)
        length = int(data.attention_mask[rows].sum(1).max())  # no longer than the longest of the block
        ids, mask = (tensor[rows, :length].to(world.device) for tensor in (data.input_ids, data.attention_mask))
        block_embeds, feats[rows] = model.encode_text(ids, mask)
        embeds[rows, :length] = block_embeds.to(embeds.device)
        report("encode texts", number + 1, len(blocks))
    return _share(embeds, world), _share(feats, world)


def _encode_images(
    model: RetrievalModel,
    data: RetrievalSet,
    blocks: list[range],
    world: World,
    num_workers: int | None,
    report: Progress,
) -> tuple[Tensor, Tensor]:
    """Embeddings (own images, 1+P, D) in the order of `blocks`, and features (I, E) of all ranks' images."""
    config, dtype = model.config, model.image_proj.weight.dtype
    shape = (sum(map(len, blocks)), 1 + config.num_patches, config.vision_width)
    embeds = torch.zeros(shape, dtype=dtype, device=_room_for(shape, dtype, world.device))
    feats = torch.zeros(data.num_images, config.embed_dim, dtype=_feature_dtype(dtype), device=world.device)
    done = 0
    for number, (block, images) in enumerate(loaded_blocks(data.load_image, blocks, num_workers)):
        block_embeds, feats[block.start : block.stop] = model.encode_image(images.to(world.device))
        embeds[done : done + len(block)] = block_embeds.to(embeds.device)
        done += len(block)
        report("encode images", number + 1, len(blocks))
    return embeds, _share(feats, world)


def _candidates(
    queries: Tensor,
    keys: Tensor,
    blocks: list[range],
    k: int,
    world: World,
    is_right: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor]:
    """The k most similar keys (N, min(k, K)) of each query, and the rank (N,) of its best ranked right answer.

    Args:
        queries: (N, E), keys: (K, E); `blocks` are this rank's rows of queries.
        is_right: (rows (n,), keys in order (n, K)) -> bool (n, K).
    """
    candidates = torch.zeros(len(queries), min(k, len(keys)), dtype=torch.int64, device=world.device)
    ranks = torch.zeros(len(queries), dtype=torch.int64, device=world.device)
    for block in blocks:
        rows = torch.arange(block.start, block.stop, device=world.device)
        order = (queries[rows] @ keys.T).argsort(dim=1, descending=True, stable=True)  # (n, K)
        candidates[rows] = order[:, : candidates.shape[1]]
        ranks[rows] = is_right(rows, order).int().argmax(dim=1)
    return _share(candidates, world), _share(ranks, world)


def _match(
    model: RetrievalModel,
    data: RetrievalSet,
    images: list[int],
    image_embeds: Tensor,
    text_embeds: Tensor,
    i2t_candidates: Tensor,
    t2i_candidates: Tensor,
    world: World,
    report: Progress,
) -> tuple[Tensor, Tensor]:
    """Matching scores of both tables of candidates, on the CPU; this rank scores the pairs of its own images."""
    dtype = _feature_dtype(model.itm_head.weight.dtype)
    i2t_scores = torch.zeros(i2t_candidates.shape, dtype=dtype)
    t2i_scores = torch.zeros(t2i_candidates.shape, dtype=dtype)
    # for each image, the entries of the (T, k) table that name it: one sort instead of a search per image
    entries = t2i_candidates.flatten().argsort(stable=True)
    ends = torch.bincount(t2i_candidates.flatten(), minlength=data.num_images).cumsum(0)
    for number, image in enumerate(images):
        own_entries = entries[int(ends[image - 1]) if image else 0 : int(ends[image])]
        asked = torch.cat([i2t_candidates[image], own_entries // t2i_candidates.shape[1]])
        texts, where = asked.unique(return_inverse=True)
        embeds = image_embeds[number : number + 1].to(world.device)
        scores = torch.cat(
            [_match_one(model, data, embeds, text_embeds, chunk) for chunk in texts.split(PAIRS_AT_ONCE)]
        )
        found = scores.cpu()[where]
        i2t_scores[image] = found[: i2t_candidates.shape[1]]
        t2i_scores.view(-1)[own_entries] = found[i2t_candidates.shape[1] :]
        report("match", number + 1, len(images))
    return _share(i2t_scores, world), _share(t2i_scores, world)


def _match_one(
    model: RetrievalModel, data: RetrievalSet, image_embeds: Tensor, text_embeds: Tensor, texts: Tensor
) -> Tensor:
    """(n,) matching logits of texts (n,) against one image (1, 1+P, D)."""
    mask = data.attention_mask[texts]
    length = int(mask.sum(1).max())
    embeds = text_embeds[texts.to(text_embeds.device), :length].to(image_embeds.device)
    return model.match(embeds, mask[:, :length].to(image_embeds.device), image_embeds)[:, 1]


def _share(rows: Tensor, world: World) -> Tensor:
    """Give every rank all rows of a tensor of zeros in which each rank has filled its own. Exact: x + 0 = x."""
    if world.size > 1:
        for chunk in rows.flatten().split(SHARED_AT_ONCE):
            on_device = chunk.to(world.device)
            dist.all_reduce(on_device)
            chunk.copy_(on_device)
    return rows


def _room_for(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.device:
    """The device if the tensor takes at most a third of its free memory, else the CPU."""
    if device.type != "cuda":
        return device
    num_bytes = torch.Size(shape).numel() * dtype.itemsize
    return device if num_bytes <= torch.cuda.mem_get_info(device)[0] / 3 else torch.device("cpu")


def _feature_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of the model's features and scores: at least fp32."""
    return torch.promote_types(dtype, torch.float32)
