"""What the exported model does with held-out pictures: finds them, names them, looks at the places its words name."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from albef import gradcam
from albef.grounding.explanation import overlay
from albef.inputs.preprocess import preprocess_images
from albef.pretrained import Albef
from demo.page_pictures import ImageQuery, TextQuery, WordMaps
from demo.pictures import ASSETS, Picture, PictureArchive, read_pictures
from samples.captions import clean_caption
from samples.image import read_image
from samples.record import MAX_PIXELS

OWN_QUERIES = (
    "a red heart",
    "a yellow face crying",
    "an animal with a tail",
    "something to eat",
    "a flag with a star",
    "a blue circle",
)
PHOTOS = (
    ("cat.jpg", "a cat with green eyes", "photograph: Stéfan van der Walt, CC0"),
    ("coffee.jpg", "a cup of coffee on a red plate", "photograph: Rachel Michetti, CC0"),
    ("rocket.jpg", "a white rocket and lights at night", "photograph: SpaceX, public domain"),
)
NUM_CANDIDATES = 16
"""What the matching head re-ranks, as in the evaluation."""
TILE = 96
STOP_WORDS = frozenset(("a", "an", "the", "of", "and", "to", "is", "in", "on", "with", "at", "it"))


class Gallery:
    """Pictures and their names, encoded once, searchable both ways.

    Args:
        albef: the exported model.
        pictures: what to search; the first caption of each is its name.
    """

    def __init__(self, albef: Albef, archive: PictureArchive, pictures: Sequence[Picture]) -> None:
        self.albef, self.names = albef, [picture.captions[0] for picture in pictures]
        self.images = [archive.open(picture.image) for picture in pictures]
        encoded = [albef.encode_image(self.images[i : i + 64]) for i in range(0, len(pictures), 64)]
        embeds, feats = zip(*encoded, strict=True)
        self.image_embeds, self.image_feat = torch.cat(embeds), torch.cat(feats)  # (N, 1+P, D), (N, E)
        _, self.text_feat, _ = albef.encode_text(self.names)

    def pictures_for(self, text: str) -> list[int]:
        """All pictures, best first: by similarity, the first few re-ranked by the matching head."""
        text_embeds, text_feat, mask = self.albef.encode_text([text])
        order = (self.image_feat @ text_feat[0]).argsort(descending=True)
        best = order[:NUM_CANDIDATES]
        repeated = text_embeds.expand(len(best), -1, -1), mask.expand(len(best), -1)
        return _reranked(order, self._match(*repeated, self.image_embeds[best]))

    def names_for(self, index: int) -> list[int]:
        """All names for one picture, best first, likewise."""
        order = (self.text_feat @ self.image_feat[index]).argsort(descending=True)
        best = order[:NUM_CANDIDATES]
        text_embeds, _, mask = self.albef.encode_text([self.names[i] for i in best.tolist()])
        return _reranked(order, self._match(text_embeds, mask, self.image_embeds[index : index + 1]))

    @torch.no_grad()
    def _match(self, text_embeds: Tensor, mask: Tensor, image_embeds: Tensor) -> Tensor:
        logits: Tensor = self.albef.model.match(text_embeds, mask, image_embeds)
        return logits[:, 1] - logits[:, 0]


def _reranked(order: Tensor, scores: Tensor) -> list[int]:
    best = order[: len(scores)][scores.argsort(descending=True, stable=True)]
    return torch.cat([best, order[len(scores) :]]).tolist()


def text_queries(gallery: Gallery, count: int, seed: int) -> list[TextQuery]:
    """Names drawn at random, with the five best pictures."""
    queries = []
    for index in random.Random(f"{seed} texts").sample(range(len(gallery.names)), count):
        found = gallery.pictures_for(gallery.names[index])
        queries.append(TextQuery(text=gallery.names[index], found=_tiles(gallery, found), right_at=found.index(index)))
    return queries


def own_queries(gallery: Gallery) -> list[TextQuery]:
    """Sentences that name no picture of the gallery."""
    return [
        TextQuery(text=text, found=_tiles(gallery, gallery.pictures_for(text)), right_at=None) for text in OWN_QUERIES
    ]


def image_queries(gallery: Gallery, count: int, seed: int) -> list[ImageQuery]:
    """Pictures drawn at random, with the five best names."""
    queries = []
    for index in random.Random(f"{seed} images").sample(range(len(gallery.names)), count):
        found = gallery.names_for(index)
        names, right = [gallery.names[i] for i in found[:5]], gallery.names[index]
        queries.append(ImageQuery(image=gallery.images[index], found=names, right_at=found.index(index), right=right))
    return queries


def _tiles(gallery: Gallery, found: Sequence[int]) -> list[Image.Image]:
    return [gallery.images[i].resize((TILE, TILE), Image.Resampling.LANCZOS) for i in found[:5]]


def photo_maps(albef: Albef) -> list[WordMaps]:
    """The photographs, with a map for each word that means something by itself."""
    return [_maps_of(albef, _photo(name), text, source) for name, text, source in PHOTOS]


def _photo(name: str) -> Image.Image:
    return read_image((ASSETS / "photos" / name).read_bytes(), max_pixels=MAX_PIXELS)


def scene_maps(albef: Albef, archive: PictureArchive, count: int, seed: int) -> list[WordMaps]:
    """Held-out scenes drawn at random; the frames are the true places."""
    scenes = random.Random(f"{seed} scenes").sample(read_pictures("test_scenes"), count)
    return [
        _maps_of(albef, archive.open(scene.image), scene.captions[0], f"drawings: {scene.vendor}", scene.boxes)
        for scene in scenes
    ]


def _maps_of(
    albef: Albef,
    picture: Image.Image,
    text: str,
    source: str,
    boxes: Sequence[tuple[str, tuple[int, int, int, int]]] = (),
) -> WordMaps:
    found = albef.explain(picture, text)
    picture = picture.convert("RGB")
    scale = 232 / max(picture.size)
    shown = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    words = []
    for word, heat in zip(found.words, found.maps, strict=True):
        if word in STOP_WORDS:
            continue
        image = overlay(shown, heat)
        for label, box in boxes:
            if word in clean_caption(label).split():
                ImageDraw.Draw(image).rectangle([edge * scale for edge in box], outline="white", width=3)
        words.append((word, image))
    return WordMaps(image=shown, caption=text, source=f"{source}; match {found.match:.2f}", words=words)


@dataclass(frozen=True)
class Pointing:
    """How often the hottest place of a label's words lies in its box."""

    hits: int
    labels: int
    chance: float
    """Mean share of the picture that a box covers."""

    def __str__(self) -> str:
        return (
            f"Each drawing's box is known, so pointing can be counted. Over the {self.labels} labels of the held-out "
            f"scenes, the hottest place of a label's words lies in its box {100 * self.hits / self.labels:.0f}% of "
            f"the time; a place at random would {100 * self.chance:.0f}%. White frames mark the true places."
        )


def pointing(albef: Albef, archive: PictureArchive, scenes: Sequence[Picture], batch_size: int = 25) -> Pointing:
    """Count the pointing game (Zhang et al. 2016) on scenes with boxes, with each scene's first caption."""
    hits, labels, share = 0, 0, 0.0
    for start in range(0, len(scenes), batch_size):
        batch = scenes[start : start + batch_size]
        pictures = [archive.open(scene.image) for scene in batch]
        texts = [clean_caption(scene.captions[0]) for scene in batch]
        pixels = preprocess_images(pictures, albef.config.image_size).to(albef.device)
        input_ids, mask = (x.to(albef.device) for x in albef.tokenizer(texts, albef.max_text_tokens))
        found = gradcam.cross_attention(albef.model, pixels, input_ids, mask)
        maps = gradcam.token_maps(found, mask).cpu()  # (B, L, G, G)
        for scene, picture, ids, heat in zip(batch, pictures, input_ids, maps, strict=True):
            pieces = albef.tokenizer.pieces(ids)
            for label, box in scene.boxes:
                named = place_of(albef.tokenizer.tokenize(clean_caption(label)), pieces)
                if named:
                    hits += points_into(box, heat[named].mean(dim=0), picture.size)
                    labels += 1
                    share += (box[2] - box[0]) * (box[3] - box[1]) / (picture.width * picture.height)
    return Pointing(hits, labels, share / max(1, labels))


def place_of(part: Sequence[str], whole: Sequence[str]) -> list[int]:
    """Indices in `whole` of the first run of pieces equal to `part`; empty if it is not there, or was cut off."""
    for start in range(len(whole) - len(part) + 1):
        if list(whole[start : start + len(part)]) == list(part):
            return list(range(start, start + len(part)))
    return []


def points_into(box: tuple[int, int, int, int], heat: Tensor, size: tuple[int, int]) -> bool:
    """Whether the hottest place of a (G, G) map, scaled to a picture of (width, height), lies in a box of it."""
    smooth = Image.fromarray(heat.float().numpy()).resize(size, Image.Resampling.BICUBIC)
    y, x = divmod(int(np.asarray(smooth).argmax()), size[0])
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]
