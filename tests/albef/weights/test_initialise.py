"""Starting weights from ViT and BERT files, checked against timm's and transformers' own models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from albef.config import AlbefConfig, InitConfig
from albef.errors import CheckpointError
from albef.model import AlbefForPretraining
from albef.network.attention import token_mask
from albef.weights.initialise import initialise, load_bert_weights, load_vision_weights

SMALL: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "vision_width": 24,
    "vision_depth": 2,
    "vision_heads": 3,
    "vocab_size": 50,
    "text_width": 32,
    "text_depth": 2,
    "fusion_depth": 1,
    "text_heads": 4,
    "text_ffn_width": 48,
    "max_text_positions": 16,
    "embed_dim": 8,
    "cls_token_id": 2,
    "mask_token_id": 4,
}


def make_model(**changes: Any) -> AlbefForPretraining:
    torch.manual_seed(0)
    return AlbefForPretraining(AlbefConfig(**(SMALL | changes))).eval()


@pytest.fixture
def vit() -> Any:
    """timm's ViT of the small shape, with a classifier, as DeiT is."""
    torch.manual_seed(1)
    shape: dict[str, Any] = {
        "img_size": 32,
        "patch_size": 8,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 3,
        "num_classes": 5,
    }
    return timm.create_model("deit_base_patch16_224", pretrained=False, **shape).eval()


@pytest.fixture
def bert() -> BertForMaskedLM:
    """transformers' BERT of the small shape, three layers, with its MLM head; every tensor random."""
    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
    )
    model = BertForMaskedLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def text() -> tuple[Tensor, Tensor]:
    """Two texts, one padded."""
    return torch.tensor([[2, 7, 8, 9, 10], [2, 11, 12, 0, 0]]), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_vit_gives_timms_features(suffix: str, vit: Any, tmp_path: Path) -> None:
    """Loaded from a DeiT-like file, the image encoder computes what timm's model computes, without the classifier."""
    path = tmp_path / f"vit{suffix}"
    if suffix == ".pth":
        torch.save({"model": vit.state_dict()}, path)
    else:
        save_file(vit.state_dict(), path)
    model = make_model()
    report = load_vision_weights(model, str(path))
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model.image_encoder(image), vit.forward_features(image))
    kept = {name: tensor for name, tensor in vit.state_dict().items() if not name.startswith("head.")}
    assert report.tensors == len(kept) and report.parameters == sum(tensor.numel() for tensor in kept.values())
    assert report.fresh == () and str(path) in str(report)


def test_a_vit_of_another_image_size_is_resized(vit: Any, tmp_path: Path) -> None:
    """224 to 256 in small: everything is equal but the position embeddings, which are resized; the report names it."""
    torch.save(vit.state_dict(), tmp_path / "vit.pth")
    model = make_model(image_size=48)
    report = load_vision_weights(model, str(tmp_path / "vit.pth"))
    loaded = model.image_encoder.state_dict()
    assert loaded["pos_embed"].shape == (1, 37, 24)
    assert all(torch.equal(loaded[name], vit.state_dict()[name]) for name in loaded if name != "pos_embed")
    assert "resized from 16 to 36 patches" in str(report)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda state: state.pop("blocks.1.mlp.fc2.bias"), r"missing \(blocks\.1\.mlp\.fc2\.bias\)"),
        (lambda state: state.pop("pos_embed"), r"missing \(pos_embed\)"),
        (lambda state: state.update(dist_token=torch.zeros(1, 1, 24)), r"unknown \(dist_token\)"),
        (
            lambda state: state.update({"norm.weight": torch.zeros(25)}),
            r"norm\.weight is \(25,\), the model has \(24",
        ),
    ],
)
def test_a_vit_that_does_not_fit_is_refused(change: Any, named: str, vit: Any, tmp_path: Path) -> None:
    """Anything but the classifier missing, left over or misshapen is an error that names it; nothing is loaded."""
    state = dict(vit.state_dict())
    change(state)
    torch.save(state, tmp_path / "vit.pth")
    model = make_model()
    before = model.image_encoder.state_dict()["cls_token"].clone()
    with pytest.raises(CheckpointError, match=named):
        load_vision_weights(model, str(tmp_path / "vit.pth"))
    assert torch.equal(model.image_encoder.state_dict()["cls_token"], before)


def test_an_unknown_hub_name_is_refused() -> None:
    """`server:` and a name that timm does not have."""
    with pytest.raises(CheckpointError, match="no_such_vit"):
        load_vision_weights(make_model(), "server:no_such_vit_patch16_224")


def run_bert(model: AlbefForPretraining, text: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """States after the text layers, after the multimodal ones without cross-attention, and MLM logits."""
    input_ids, attention_mask = text
    first = model.text_encoder(input_ids, attention_mask)
    last = first
    layer: Any
    for layer in model.multimodal_encoder.layers:
        last = layer.ffn(layer.self_attention(last, token_mask(attention_mask, last.dtype)))
    logits = model.mlm_head(last) @ model.text_encoder.embeddings.word.weight.T + model.mlm_head.bias
    return first, last, logits


@torch.no_grad()
def test_a_bert_gives_transformers_states(bert: BertForMaskedLM, text: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    """Text layers, multimodal ones (without cross-attention) and MLM head compute what transformers' BERT computes."""
    bert.save_pretrained(tmp_path)
    model = make_model()
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items() if "cross_attention" in name}
    (report,) = initialise(model, InitConfig(text=str(tmp_path)))
    theirs = bert(input_ids=text[0], attention_mask=text[1], output_hidden_states=True)
    ours = run_bert(model, text)
    seen = text[1].bool()
    # two implementations of attention in fp32: a few roundings apart, on values of a few units
    for got, expected in zip(ours, (theirs.hidden_states[2], theirs.hidden_states[3], theirs.logits), strict=True):
        assert (got - expected)[seen].abs().max() < 1e-5
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in fresh.items())
    assert report.parameters == sum(parameter.numel() for parameter in bert.parameters())
    assert report.fresh == ("multimodal_encoder cross_attention",)


@pytest.mark.parametrize("prefix", ["bert.", ""])
@pytest.mark.parametrize("old_norms", [True, False])
@torch.no_grad()
def test_old_and_bare_names_are_understood(
    prefix: str, old_norms: bool, bert: BertForMaskedLM, text: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    """gamma and beta, with or without `bert.`, a pooler and a sentence-pair head, no MLM head: the layers load."""
    state = {}
    for name, tensor in bert.bert.state_dict().items():
        if old_norms:
            name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        state[prefix + name] = tensor.clone()
    state[prefix + "pooler.dense.weight"] = torch.zeros(32, 32)
    state[prefix + "embeddings.position_ids"] = torch.arange(16)[None]
    state["cls.seq_relationship.bias"] = torch.zeros(2)
    torch.save(state, tmp_path / "bert.bin")
    model = make_model()
    report = load_bert_weights(model, str(tmp_path / "bert.bin"))
    states = bert.bert(input_ids=text[0], attention_mask=text[1], output_hidden_states=True).hidden_states
    assert (run_bert(model, text)[1] - states[3])[text[1].bool()].abs().max() < 1e-5
    assert "mlm_head" in report.fresh


def test_what_a_smaller_model_cannot_hold_is_left_out(bert: BertForMaskedLM, tmp_path: Path) -> None:
    """Fewer layers and fewer positions than the file has: the first ones are taken, and the report names it."""
    bert.save_pretrained(tmp_path)
    model = make_model(text_depth=1, max_text_positions=10)
    report = load_bert_weights(model, str(tmp_path))
    positions = bert.bert.embeddings.position_embeddings.weight
    assert torch.equal(model.text_encoder.embeddings.position.weight, positions[:10])
    assert "1 further layers left out" in str(report) and "first 10 of 16 positions" in str(report)


@pytest.mark.parametrize(
    ("model", "change", "named"),
    [
        ({"fusion_depth": 2}, None, "has 3 BERT layers, the model 2 text and 2 multimodal"),
        ({"text_heads": 2}, None, "trained with 4 attention heads, the model has text_heads 2"),
        ({"max_text_positions": 17}, None, r"position\.weight is \(16, 32\), the model has \(17, 32\)"),
        ({"vocab_size": 60}, None, r"word\.weight is \(50, 32\), the model has \(60, 32\)"),
        ({}, {"bert.encoder.layer.1.output.dense.bias": None}, r"missing \(encoder\.layer\.1\.output\.dense\.bias\)"),
        ({}, {"cls.predictions.transform.dense.bias": None}, r"missing \(cls\.predictions\.transform\.dense\.bias\)"),
        (
            {},
            {"bert.encoder.layer.0.adapter.weight": torch.zeros(1)},
            r"unknown \(encoder\.layer\.0\.adapter\.weight\)",
        ),
    ],
)
def test_a_bert_that_does_not_fit_is_refused(
    model: dict[str, Any], change: dict[str, Tensor | None] | None, named: str, bert: BertForMaskedLM, tmp_path: Path
) -> None:
    """Too few layers, other heads, shapes or names: an error with the names and numbers in it."""
    bert.save_pretrained(tmp_path)
    state: dict[str, Tensor | None] = {**load_file(tmp_path / "model.safetensors"), **(change or {})}
    save_file({name: tensor for name, tensor in state.items() if tensor is not None}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=named):
        load_bert_weights(make_model(**model), str(tmp_path))


def test_a_folder_without_weights_or_with_a_broken_config_is_refused(tmp_path: Path) -> None:
    """An empty folder, and a config.json that is none."""
    with pytest.raises(CheckpointError, match="holds no BERT weights"):
        load_bert_weights(make_model(), str(tmp_path))
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    for content in ("{", json.dumps([1])):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            load_bert_weights(make_model(), str(tmp_path))


def test_nothing_named_loads_nothing() -> None:
    """Both sources are optional."""
    model = make_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert initialise(model, InitConfig()) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
