"""The exported model: saved, loaded, and equal to the model that was trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from albef import Albef
from albef.config import AlbefConfig
from albef.errors import CheckpointError
from albef.inputs.preprocess import preprocess_images
from albef.inputs.tokenizer import AlbefTokenizer
from albef.model import AlbefForPretraining
from samples.captions import clean_caption

TEXTS = ["A Dog on a skateboard!", "two cats, asleep"]


@pytest.fixture(scope="module")
def trained() -> AlbefForPretraining:
    torch.manual_seed(0)
    small = {"vision_width": 48, "text_width": 48, "text_ffn_width": 96}
    return AlbefForPretraining(AlbefConfig.tiny(image_size=32, vision_depth=1, text_depth=1, fusion_depth=1, **small))


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (40 + 9 * i, 50, 3), dtype=np.uint8)) for i in range(2)]


@pytest.fixture(scope="module")
def folder(trained: AlbefForPretraining, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported model."""
    folder = tmp_path_factory.mktemp("exported") / "model"
    Albef(trained, max_text_tokens=12).save_pretrained(folder, model_card="# A model\n")
    return folder


@torch.no_grad()
def test_a_loaded_model_gives_the_trained_models_numbers(
    folder: Path, trained: AlbefForPretraining, images: list[Image.Image]
) -> None:
    """Features, tokens and matching probabilities are the trained model's, bit for bit; dropout is off."""
    albef = Albef.from_pretrained(folder, device="cpu")
    trained.eval()
    pixels = preprocess_images(images, 32)
    input_ids, attention_mask = AlbefTokenizer()([clean_caption(text) for text in TEXTS], max_length=12)
    image_embeds, image_feat = trained.encode_image(pixels)
    text_embeds, text_feat = trained.encode_text(input_ids, attention_mask)
    match = trained.match(text_embeds, attention_mask, image_embeds).softmax(dim=1)[:, 1]

    assert all(torch.equal(*pair) for pair in zip(albef.encode_image(images), (image_embeds, image_feat), strict=True))
    assert all(torch.equal(*pair) for pair in zip(albef.encode_image(pixels), (image_embeds, image_feat), strict=True))
    expected = (text_embeds, text_feat, attention_mask)
    assert all(torch.equal(*pair) for pair in zip(albef.encode_text(TEXTS), expected, strict=True))
    assert torch.equal(albef.match(images, TEXTS), match)
    assert not albef.match(images, TEXTS).requires_grad


def test_everything_is_saved(folder: Path, trained: AlbefForPretraining) -> None:
    """All weights, MLM head and temperature included, the config, the text length and the model card."""
    albef = Albef.from_pretrained(folder, device="cpu")
    weights = trained.state_dict()
    assert albef.config == trained.config and albef.max_text_tokens == 12
    assert all(torch.equal(tensor, weights[name]) for name, tensor in albef.model.state_dict().items())
    assert (folder / "README.md").read_text() == "# A model\n"


def test_a_model_is_saved_over_a_model_and_over_nothing_else(folder: Path, tmp_path: Path) -> None:
    """Another model's config, a project's README and a vocabulary are not replaced; a killed save of ours is."""
    albef = Albef.from_pretrained(folder, device="cpu")
    for name, text in {"config.json": '{"model_type": "bert"}', "README.md": "mine", "vocab.txt": "mine"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(text)
        with pytest.raises(CheckpointError, match=f"holds {name}, which would be replaced"):
            albef.save_pretrained(tmp_path / name, model_card="ours")
        assert {path.name: path.read_text() for path in (tmp_path / name).iterdir()} == {name: text}
    model = tmp_path / "model"
    albef.save_pretrained(model)
    (model / "notes.txt").write_text("mine")
    (model / "config.json").write_text('{"model_type": "albef"}')  # as a killed save leaves it
    with pytest.raises(CheckpointError, match="not of an ALBEF in format 1"):
        Albef.from_pretrained(model)
    albef.save_pretrained(model)
    assert Albef.from_pretrained(model, device="cpu").config == albef.config
    assert (model / "notes.txt").read_text() == "mine"


def test_texts_are_cut_to_the_trained_length(folder: Path) -> None:
    """A long text uses the positions that training saw, no more."""
    albef = Albef.from_pretrained(folder, device="cpu")
    assert albef.encode_text(["word " * 40])[0].shape[1] == 12


def test_the_image_processor_of_transformers_makes_the_same_pixels(folder: Path, images: list[Image.Image]) -> None:
    """preprocessor_config.json describes in Hugging Face's terms what this project does."""
    processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
    theirs = processor(images, return_tensors="pt")["pixel_values"]
    # one bicubic implementation may round a pixel the other way: one 255th over the smallest std, 0.26
    assert (theirs - preprocess_images(images, 32)).abs().max() < 1.01 / 255 / 0.26


def test_unequal_numbers_are_refused(trained: AlbefForPretraining, images: list[Image.Image]) -> None:
    """match() takes pairs; one text is not spread over several pictures, letter by letter or otherwise."""
    albef = Albef(trained)
    for pictures, texts in ((images, TEXTS[:1]), (images * 2 + images[:1], "a dog"), (images[0], TEXTS), ([], TEXTS)):
        numbers = (
            1 if isinstance(pictures, Image.Image) else len(pictures),
            1 if isinstance(texts, str) else len(texts),
        )
        with pytest.raises(ValueError, match=f"{numbers[0]} images and {numbers[1]} texts"):
            albef.match(pictures, texts)


def test_one_is_one(trained: AlbefForPretraining, images: list[Image.Image]) -> None:
    """A string is one text and a picture one picture, with the numbers of a list of that one; none gives none."""
    albef, text = Albef(trained), TEXTS[0]
    assert all(torch.equal(*pair) for pair in zip(albef.encode_text(text), albef.encode_text([text]), strict=True))
    assert all(
        torch.equal(*pair) for pair in zip(albef.encode_image(images[0]), albef.encode_image(images[:1]), strict=True)
    )
    assert torch.equal(albef.match(images[0], text), albef.match(images[:1], (text,)))
    assert torch.equal(albef.match(images[0], [text]), albef.match(images[:1], text))
    width = trained.config.embed_dim
    assert albef.encode_text([])[1].shape == (0, width) and albef.encode_image([])[1].shape == (0, width)
    assert albef.encode_image(torch.empty(0, 3, 32, 32))[1].shape == (0, width)
    assert albef.match([], []).shape == (0,)


def test_what_is_no_text_is_a_type_error(trained: AlbefForPretraining, images: list[Image.Image]) -> None:
    """Anything that Python would take apart, or that is no text: named, with what to pass instead."""
    albef = Albef(trained)
    wrong: dict[str, object] = {
        "value of type bytes; decode it": b"a dog",
        "value of type int$": 5,
        "not None$": None,
        "value of type PosixPath$": Path("a dog"),
        "value of type dict$": {"text": "a dog"},
        "value of type generator; make a list": (text for text in TEXTS),
        "value of type set; make a list": set(TEXTS),
        r"value of type ndarray; give array\.tolist": np.array(TEXTS),
        "position 2 there is a value of type float": ["a", "b", 2.0],
        "position 3 there is None": ["a", "b", "c", None],
        "position 0 there is a value of type list": [TEXTS],
    }
    for named, value in wrong.items():
        for call in (albef.encode_text, albef.tokenizer, lambda texts: albef.match(images, texts)):
            with pytest.raises(TypeError, match=named) as error:
                call(value)  # type: ignore[arg-type]
            assert "a string or a list of strings" in str(error.value)


def test_what_is_no_picture_is_a_type_error(trained: AlbefForPretraining, images: list[Image.Image]) -> None:
    """Paths, bytes, arrays, pictures already preprocessed in a list, a picture without the batch's dimension."""
    albef = Albef(trained)
    pixels = preprocess_images(images, 32)
    wrong: dict[str, object] = {
        r"value of type str; open it: PIL\.Image\.open": "dog.jpg",
        r"value of type PosixPath; open it: PIL\.Image\.open": Path("dog.jpg"),
        "value of type bytes; open it": b"\xff\xd8",
        "value of type ndarray; convert it": np.zeros((4, 4, 3), dtype=np.uint8),
        "position 1 there is a value of type str; open it": [images[0], "dog.jpg"],
        r"position 0 there is a value of type Tensor; .*torch\.stack": list(pixels),
        r"not a tensor \(3, 32, 32\) of torch.float32; .*image\[None\]": pixels[0],
        "of torch.uint8": (pixels * 255).to(torch.uint8),
        "value of type generator; make a list": (image for image in images),
        "not None": None,
    }
    for named, value in wrong.items():
        for call in (albef.encode_image, lambda images: albef.match(images, TEXTS)):
            with pytest.raises(TypeError, match=named):
                call(value)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"are \(B, 3, 32, 32\), this tensor is \(2, 3, 48, 48\)"):
        albef.encode_image(preprocess_images(images, 48))
