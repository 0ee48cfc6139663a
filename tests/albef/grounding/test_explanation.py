"""`Albef.explain` and `Albef.ground`, of saved models of both kinds: arrays and figures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from albef import Albef
from albef.config import AlbefConfig
from albef.downstream.retrieval import AlbefForRetrieval
from albef.gradcam import cross_attention, token_maps
from albef.grounding.explanation import GAP, LINE, overlay
from albef.grounding.phrases import phrase_maps
from albef.model import AlbefForPretraining
from albef.pretrained import AlbefRetrieval

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8))
CONFIG = AlbefConfig.tiny(image_size=32, vision_depth=2, text_depth=1, text_width=48)


@pytest.fixture(scope="module", params=["albef", "albef_retrieval"])
def albef(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Albef:
    """A model of random weights that was saved and loaded."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "albef":
        Albef(AlbefForPretraining(CONFIG)).save_pretrained(folder)
    else:
        AlbefRetrieval(AlbefForRetrieval(CONFIG)).save_pretrained(folder)
    return Albef.from_pretrained(folder, "cpu")


def test_a_phrase_has_the_mean_of_its_words(albef: Albef) -> None:
    """Where it comes first; what is no part of the text is an error."""
    found = albef.explain(IMAGE, "A red star left of a red ring!")
    assert found.words == ["a", "red", "star", "left", "of", "a", "red", "ring"] and found.maps.max() > 0
    assert torch.equal(found.phrase("red star"), found.maps[1:3].mean(dim=0))
    assert torch.equal(found.phrase("Red"), found.maps[1]) and torch.equal(found.phrase("ring"), found.maps[7])
    for missing in ("blue ring", "star red", "", "ring of fire"):
        with pytest.raises(ValueError, match="is no part of the text"):
            found.phrase(missing)


def test_the_figure_shows_image_text_and_words(albef: Albef) -> None:
    """Tiles in rows of `columns`, the maps drawn as `overlay` draws them; phrases in place of the words."""
    found = albef.explain(IMAGE, "a red star")
    figure = found.figure(side=90, columns=3)
    assert figure.size == (3 * (90 + GAP) + GAP, 2 * (60 + GAP + LINE) + GAP)  # image, text; a, red, star
    pixels = np.asarray(figure)
    assert np.array_equal(pixels[GAP : GAP + 60, GAP : GAP + 90], np.asarray(IMAGE))
    x, y = 2 * (90 + GAP) + GAP, GAP
    assert np.array_equal(pixels[y : y + 60, x : x + 90], np.asarray(overlay(IMAGE, found.maps[0])))
    assert (pixels[y + 60 + GAP : y + 60 + LINE, x : x + 90] < 128).any(), "no word below its map"
    assert found.figure(["red star"], side=90).size == (3 * (90 + GAP) + GAP, 60 + LINE + 2 * GAP)
    assert albef.explain(IMAGE, "...").figure(side=30).size == (2 * (30 + GAP) + GAP, 20 + LINE + 2 * GAP)


def test_the_box_of_a_phrase_is_where_its_map_is_hot(albef: Albef) -> None:
    """Of three thirds of the image the one with the highest sum (they have one area); without boxes, one of the map."""
    thirds = [(0.0, 0.0, 30.0, 60.0), (30.0, 0.0, 30.0, 60.0), (60.0, 0.0, 30.0, 60.0)]
    for by in ("itm", "itc"):
        found = albef.ground(IMAGE, "a red star", boxes=thirds, by=by)
        smooth = torch.nn.functional.interpolate(found.heat[None, None].double(), (60, 90), mode="bicubic")[0, 0]
        sums = [float(smooth[:, x : x + 30].sum()) for x in (0, 30, 60)]
        assert found.place == sums.index(max(sums)) and found.box == thirds[found.place]
        alone = albef.ground(IMAGE, "a red star", by=by)
        assert alone.place is None and torch.equal(alone.heat, found.heat)
        assert all(0 <= edge <= 90 for edge in alone.box) and alone.figure().size == IMAGE.size
    with pytest.raises(ValueError, match="the multimodal encoder has"):
        albef.ground(IMAGE, "a red star", layer=99)
    with pytest.raises(TypeError, match="one string expected"):
        albef.ground(IMAGE, ["a red star"])  # type: ignore[arg-type]


def test_maps_do_not_depend_on_padding(albef: Albef) -> None:
    """The mean over the text's own tokens: alone, and beside a longer text (float32 rounding)."""
    texts = ["a red star", "a red star left of a blue ring"]
    pixels = albef.pixels([IMAGE, IMAGE])
    ids, mask = albef.tokenizer(texts)
    together = phrase_maps(albef.model, pixels, ids, mask)
    ids, mask = albef.tokenizer(texts[:1])
    alone = phrase_maps(albef.model, pixels[:1], ids, mask)
    assert torch.allclose(together[:1], alone, rtol=1e-4, atol=1e-9)
    maps = token_maps(cross_attention(albef.model, pixels[:1], ids, mask), mask)
    assert torch.allclose(alone, maps.mean(dim=1), rtol=1e-6, atol=0)
