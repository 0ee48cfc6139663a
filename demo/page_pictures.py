"""The sections of the report that are made of pictures: what was found for a query, and where words look."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image


@dataclass(frozen=True, kw_only=True)
class TextQuery:
    """A caption and the pictures found for it, best first."""

    text: str
    found: Sequence[Image.Image]
    right_at: int | None
    """Place of the right picture, from 0; None for a query that has no right picture."""


@dataclass(frozen=True, kw_only=True)
class ImageQuery:
    """A picture and the captions found for it, best first."""

    image: Image.Image
    found: Sequence[str]
    right_at: int
    right: str


@dataclass(frozen=True, kw_only=True)
class WordMaps:
    """A picture, its caption, and where the model looks for each word."""

    image: Image.Image
    caption: str
    source: str
    words: Sequence[tuple[str, Image.Image]]


def found_section(texts: Sequence[TextQuery], images: Sequence[ImageQuery], own: Sequence[TextQuery]) -> str:
    """Retrieval, shown: both directions, and queries without a right answer."""
    return (
        "<h2>What it finds</h2>"
        "<p>Held-out queries drawn at random, not chosen; the best five by the matching head. Green is the right "
        "one.</p>"
        '<div class="pair">'
        f'<div class="card"><h3>Caption → pictures</h3>{"".join(map(_text_query, texts))}</div>'
        f'<div class="card"><h3>Picture → captions</h3>{"".join(map(_image_query, images))}</div>'
        "</div>"
        '<div class="card"><h3>Our own words, which name no picture</h3>'
        f'<div class="pair">{"".join(map(_text_query, own))}</div></div>'
    )


def maps_section(photos: Sequence[WordMaps], scenes: Sequence[WordMaps], pointing: str) -> str:
    """Grad-CAM per word, on photographs and on scenes with known places."""
    return (
        "<h2>Where it looks for each word</h2>"
        "<p>Grad-CAM on the cross-attention under the matching head, one map a word (paper, figure 4). The model "
        "saw drawings only, and those for minutes: on photographs expect hints, not outlines.</p>"
        f'<div class="maps">{"".join(map(_word_maps, photos))}</div>'
        f"<h2>Scenes with known places</h2><p>{escape(pointing)}</p>"
        f'<div class="maps">{"".join(map(_word_maps, scenes))}</div>'
    )


def _text_query(query: TextQuery) -> str:
    pictures = [
        f'<img class="{"right" if index == query.right_at else ""}" alt="" src="{data_uri(image)}">'
        for index, image in enumerate(query.found)
    ]
    place = "" if query.right_at is None else f"<small>right one at place {query.right_at + 1}</small>"
    return (
        f'<div class="query"><div><q>{escape(query.text)}</q>{place}</div>'
        f'<div class="found">{"".join(pictures)}</div></div>'
    )


def _image_query(query: ImageQuery) -> str:
    names = [
        f'<li class="{"right" if index == query.right_at else ""}">{escape(name)}</li>'
        for index, name in enumerate(query.found)
    ]
    missed = query.right_at >= len(query.found)
    place = f"<small>{escape(query.right)}: place {query.right_at + 1}</small>" if missed else ""
    return (
        f'<div class="query image"><img alt="" src="{data_uri(query.image)}">'
        f"<div><ol>{''.join(names)}</ol>{place}</div></div>"
    )


def _word_maps(maps: WordMaps) -> str:
    words = [
        f'<figure><img alt="{escape(word)}" src="{data_uri(image)}"><b>{escape(word)}</b></figure>'
        for word, image in maps.words
    ]
    words.insert(
        0,
        f'<figure><img alt="" src="{data_uri(maps.image)}">'
        f"<b>{escape(maps.caption)}</b><br>{escape(maps.source)}</figure>",
    )
    return f'<div class="card row">{"".join(words)}</div>'


def data_uri(image: Image.Image) -> str:
    """The picture inside the page, as JPEG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
