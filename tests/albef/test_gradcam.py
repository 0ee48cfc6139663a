"""Grad-CAM where the recordings do not reach: words, frozen weights, side effects, pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from albef.config import AlbefConfig
from albef.gradcam import cross_attention, token_maps
from albef.grounding.explanation import explain, overlay
from albef.inputs.preprocess import preprocess_image
from albef.inputs.tokenizer import AlbefTokenizer
from albef.model import AlbefForPretraining

TEXT = "A skateboarder, jumping"


@pytest.fixture
def model() -> AlbefForPretraining:
    torch.manual_seed(0)
    return AlbefForPretraining(AlbefConfig.tiny(image_size=32, vision_depth=1, text_depth=1, text_width=48))


@pytest.fixture
def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8))


def test_a_word_of_several_pieces_has_their_mean(model: AlbefForPretraining, image: Image.Image) -> None:
    """skate, ##board, ##er become one word, whose map is the mean of theirs; the caption's is that of all tokens."""
    tokenizer = AlbefTokenizer()
    found = explain(model, tokenizer, image, TEXT)
    assert found.words == ["a", "skateboarder", "jumping"]
    assert found.maps.shape == (3, 4, 4) and (found.maps >= 0).all()
    input_ids, mask = tokenizer(["a skateboarder jumping"])
    pixels = preprocess_image(image, 32)[None]
    recorded = cross_attention(model, pixels, input_ids, mask)
    maps = token_maps(recorded, mask)[0]
    assert torch.allclose(found.maps[1], maps[2:5].mean(dim=0), rtol=0, atol=1e-7)
    assert torch.allclose(found.text_map, maps.mean(dim=0), rtol=0, atol=1e-7)
    assert found.match == pytest.approx(float(recorded.logits.softmax(dim=1)[0, 1]))


def test_an_empty_text_has_no_words(model: AlbefForPretraining, image: Image.Image) -> None:
    """Nothing but punctuation leaves [CLS] alone."""
    found = explain(model, AlbefTokenizer(), image, "...")
    assert found.words == [] and found.maps.shape == (0, 4, 4) and found.text_map.shape == (4, 4)


def test_it_takes_one_picture_and_one_text(model: AlbefForPretraining, image: Image.Image) -> None:
    """Lists and paths are errors that name the type."""
    wrong: list[tuple[Any, Any, str]] = [
        ([image], TEXT, r"one PIL\.Image expected, not a value of type list"),
        ("dog.jpg", TEXT, r"one PIL\.Image expected, not a value of type str; open it"),
        (image, [TEXT], "one string expected, not a value of type list"),
        (image, None, "one string expected, not None"),
    ]
    for picture, text, named in wrong:
        with pytest.raises(TypeError, match=named):
            explain(model, AlbefTokenizer(), picture, text)


def test_the_gradient_is_that_of_the_match_logit(model: AlbefForPretraining, image: Image.Image) -> None:
    """Moving one attention weight by a little moves the logit by its gradient times that (float64)."""
    model = model.double().eval()
    pixels = preprocess_image(image, 32)[None].double()
    input_ids, mask = AlbefTokenizer()([TEXT])
    found = cross_attention(model, pixels, input_ids, mask, layer=1)
    layer: Any = model.multimodal_encoder.layers[1].cross_attention
    original, step, place = layer.attend, 1e-6, (0, 2, 1, 5)

    def logit(shift: float) -> float:
        def attend(query: torch.Tensor, key_value: torch.Tensor) -> torch.Tensor:
            weights = found.weights.clone()
            weights[place] += shift
            return (weights @ key_value[:, :, 1].transpose(1, 2)).transpose(1, 2).flatten(2)

        layer.attend = attend
        image_embeds, _ = model.encode_image(pixels)
        text_embeds, _ = model.encode_text(input_ids, mask)
        return float(model.match(text_embeds, mask, image_embeds)[0, 1])

    with torch.no_grad():
        slope = (logit(step) - logit(-step)) / (2 * step)
    layer.attend = original
    assert slope == pytest.approx(float(found.gradient[place]), rel=1e-6)


def test_the_model_is_left_as_it_was(model: AlbefForPretraining, image: Image.Image) -> None:
    """Each module's mode, gradients and the attention's own path are untouched; frozen weights give the same maps."""
    model.train()
    model.image_encoder.eval()  # as a user who trains only the rest
    modes = [module.training for module in model.modules()]
    maps = explain(model, AlbefTokenizer(), image, TEXT).maps
    assert model.training and [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    attention: Any = model.multimodal_encoder.layers[0].cross_attention
    assert attention.keep_weights is False and attention.weights is None
    with torch.no_grad():
        assert torch.equal(explain(model.requires_grad_(False), AlbefTokenizer(), image, TEXT).maps, maps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("frozen", [False, True])
def test_inference_mode_gives_the_same_maps(frozen: bool, dtype: torch.dtype, image: Image.Image) -> None:
    """Web applications run under it, and may load the model there: its weights are then tensors without gradients."""

    def make() -> AlbefForPretraining:
        torch.manual_seed(0)
        return AlbefForPretraining(AlbefConfig.tiny(image_size=32, text_width=48)).to(dtype).requires_grad_(not frozen)

    outside, tokenizer = make(), AlbefTokenizer()
    expected = explain(outside, tokenizer, image, TEXT)
    assert expected.maps.max() > 0
    with torch.inference_mode():
        inside = make()
        found = [explain(model, tokenizer, image, TEXT) for model in (outside, inside)]
    assert all(weight.is_inference() for weight in inside.parameters())
    for maps in (*found, explain(inside, tokenizer, image, TEXT)):
        assert torch.equal(maps.maps, expected.maps) and torch.equal(maps.text_map, expected.text_map)
        assert maps.match == expected.match
    input_ids, mask = tokenizer(TEXT)
    with torch.inference_mode():
        pixels = preprocess_image(image, 32)[None]
        recorded = cross_attention(inside, pixels, input_ids, mask.bool())
    assert recorded.gradient.abs().max() > 0


def test_an_overlay_is_red_where_the_map_is_hot(image: Image.Image) -> None:
    """At the picture's size; hot becomes red, cold blue; at opacity 0 the picture is as it was."""
    heat = torch.zeros(4, 4)
    heat[0, 0] = 3.0
    drawn = np.asarray(overlay(image, heat, opacity=1.0))
    assert drawn.shape == (50, 70, 3)
    assert drawn[0, 0].tolist() == [128, 0, 0] and drawn[-1, -1].tolist() == [0, 0, 128]
    assert np.array_equal(np.asarray(overlay(image, heat, opacity=0.0)), np.asarray(image))
    assert np.asarray(overlay(image, torch.zeros(4, 4), opacity=1.0))[0, 0].tolist() == [0, 0, 128]
