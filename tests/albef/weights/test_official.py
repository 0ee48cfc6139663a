"""Official checkpoints: read strictly, written back key for key and bit for bit."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from albef.errors import CheckpointError
from albef.model import AlbefForPretraining
from albef.weights.official import from_official, read_official, to_official
from tests.parity import goldens

PRETRAIN, RETRIEVAL = goldens.load("pretrain_tiny"), goldens.load("gradcam_tiny")
TASKS = [goldens.load(name) for name in ("ve_tiny", "vqa_tiny", "nlvr_tiny", "ta_tiny")]
HEADS = {
    "vision_heads": PRETRAIN.info["config"]["vit_heads"],
    "text_heads": PRETRAIN.info["bert_config"]["num_attention_heads"],
}


@pytest.fixture
def state() -> dict[str, Tensor]:
    """A recorded official pretraining state dict: student, teacher and queues."""
    return PRETRAIN.under("state/")


def is_momentum(name: str) -> bool:
    return name.split(".", 1)[0].endswith("_m")


def is_queue(name: str) -> bool:
    return "queue" in name


def assert_same(written: dict[str, Tensor], original: dict[str, Tensor]) -> None:
    assert set(written) == set(original)
    for name, tensor in original.items():
        assert written[name].dtype == tensor.dtype and written[name].shape == tensor.shape, name
        assert torch.equal(written[name], tensor), name


@pytest.mark.parametrize("momentum", [True, False], ids=["with teacher", "without teacher"])
@pytest.mark.parametrize("queue", [True, False], ids=["with queue", "without queue"])
@pytest.mark.parametrize("wrapped", [True, False], ids=["wrapped", "bare"])
@pytest.mark.parametrize("golden", [PRETRAIN, RETRIEVAL, *TASKS], ids=lambda golden: golden.name)
def test_round_trip_is_bit_exact(golden: goldens.Golden, wrapped: bool, queue: bool, momentum: bool) -> None:
    """There and back gives the same keys, dtypes, shapes and bytes, for any parts a checkpoint has."""
    original = {
        name: tensor
        for name, tensor in golden.under("state/").items()
        if (momentum or not is_momentum(name)) and (queue or not is_queue(name))
    }
    weights = from_official({"model": original, "epoch": 29} if wrapped else original, **HEADS)
    assert (weights.teacher is not None) == any(map(is_momentum, original))
    assert (weights.queue is not None) == any(map(is_queue, original))
    assert_same(to_official(weights.student, weights.teacher, weights.queue), original)


def test_round_trip_keeps_half_precision(state: dict[str, Tensor]) -> None:
    """A checkpoint in bf16 comes back in bf16: nothing passes through another dtype."""
    halved = {name: tensor.bfloat16() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    weights = from_official(halved, **HEADS)
    assert_same(to_official(weights.student, weights.teacher, weights.queue), halved)


def test_round_trip_through_the_model_is_bit_exact(state: dict[str, Tensor]) -> None:
    """Loaded strictly into the model and taken out again, the weights are still the same."""
    weights = from_official(state, **HEADS)
    model = AlbefForPretraining(weights.config)
    model.load_state_dict(weights.student)
    assert_same(to_official(model.state_dict(), weights.teacher, weights.queue), state)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_are_read(suffix: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    """A file as the official script saves it (optimizer, config, epoch beside the weights), and a bare safetensors."""
    path = tmp_path / f"checkpoint{suffix}"
    if suffix == ".pth":
        others = {"optimizer": {"state": {}, "param_groups": []}, "config": {"image_res": 256}, "epoch": 29}
        torch.save({"model": state} | others, path)
    else:
        save_file(state, path)
    weights = read_official(path, **HEADS)
    assert_same(to_official(weights.student, weights.teacher, weights.queue), state)


def test_a_pickle_runs_nothing(tmp_path: Path) -> None:
    """A .pth that would run a command when unpickled is refused, and the command is not run."""

    class Bomb:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    path = tmp_path / "bomb.pth"
    path.write_bytes(pickle.dumps({"model": Bomb()}, protocol=2))
    with pytest.raises(CheckpointError, match=r"bomb\.pth cannot be read"):
        read_official(path)
    torch.save({"model": Bomb()}, path)
    with pytest.raises(CheckpointError, match=r"bomb\.pth cannot be read"):
        read_official(path)
    assert not (tmp_path / "ran").exists()


REPEATED = (
    *("position_ids", "cls.predictions.decoder.weight", "cls.predictions.decoder.bias"),
    *("embeddings.word_embeddings.weight", "cls.predictions.bias"),
)
"""Ends of the names that another key repeats, or can be counted out."""


def test_what_another_key_repeats_may_be_absent(state: dict[str, Tensor]) -> None:
    """transformers since 4.31 saves no positions, safetensors either name of two tied tensors."""
    expected = from_official(state, **HEADS)
    absent = [
        [name for name in state if name.endswith("position_ids")],
        [name for name in state if name.endswith(REPEATED[:3])],
        [name for name in state if name.endswith((REPEATED[0], *REPEATED[3:]))],
    ]
    for names in absent:
        assert len(names) in (2, 6)
        found = from_official({name: tensor for name, tensor in state.items() if name not in names}, **HEADS)
        assert_same(to_official(found.student, found.teacher, found.queue), state)
        assert found.config == expected.config
    both = [name for name in state if name.endswith((REPEATED[1], REPEATED[3]))]
    with pytest.raises(CheckpointError, match=r"2 missing \(text_encoder\.bert\.embeddings\.word_embeddings\.weight"):
        from_official({name: tensor for name, tensor in state.items() if name not in both}, **HEADS)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("wrapper", ["model", "state_dict", "module", "model_state_dict"])
def test_wrapped_modules_are_unwrapped(wrapper: str, prefix: str, state: dict[str, Tensor]) -> None:
    """As DistributedDataParallel, torch.compile and DeepSpeed save them."""
    content = {wrapper: {prefix + name: tensor for name, tensor in state.items()}, "epoch": 3}
    found = from_official(content, **HEADS)
    assert_same(to_official(found.student, found.teacher, found.queue), state)


def test_every_missing_key_is_named(state: dict[str, Tensor]) -> None:
    """Each key is taken out alone, and the error names it; of those that are repeated, one may be."""
    for name in state:
        if name.endswith(REPEATED):
            continue
        with pytest.raises(CheckpointError) as error:
            from_official({key: tensor for key, tensor in state.items() if key != name}, **HEADS)
        assert name in error.value.message


@pytest.mark.parametrize(
    "extra",
    [
        "visual_encoder.head.weight",
        "text_encoder.bert.pooler.dense.weight",
        "text_encoder.bert.encoder.layer.0.crossattention.self.query.wight",
        "idx_queue",
        "cls_head.0.weight",
        "itm_head_m.weight",
    ],
)
def test_an_unknown_key_is_named(extra: str, state: dict[str, Tensor]) -> None:
    """One key too many, and nothing is loaded."""
    with pytest.raises(CheckpointError, match="unknown") as error:
        from_official(state | {extra: torch.zeros(2)}, **HEADS)
    assert extra in error.value.message


@pytest.mark.parametrize(
    "name",
    [
        "itm_head.weight",
        "text_proj_m.bias",
        "temp",
        "text_queue",
        "queue_ptr",
        "visual_encoder.blocks.0.mlp.fc1.weight",
    ],
)
def test_a_misshapen_tensor_is_named(name: str, state: dict[str, Tensor]) -> None:
    """A tensor of another shape is refused here, not by a traceback from the model."""
    with pytest.raises(CheckpointError, match="shapes differ") as error:
        from_official(state | {name: torch.zeros(7, 3)}, **HEADS)
    assert name in error.value.message


@pytest.mark.parametrize("name", ["decoder.weight", "decoder.bias", "position_ids"])
def test_a_copy_that_differs_is_refused(name: str, state: dict[str, Tensor]) -> None:
    """The decoder is tied and positions count up: anything else would be lost in silence."""
    full = next(key for key in state if key.endswith(name))
    with pytest.raises(CheckpointError) as error:
        from_official(state | {full: state[full].flip(-1) + 1}, **HEADS)
    assert full in error.value.message


def test_another_models_checkpoint_is_refused() -> None:
    """The error for a file that is no ALBEF names what was found in it."""
    with pytest.raises(CheckpointError, match="not an official ALBEF checkpoint"):
        from_official({"fc.weight": torch.zeros(2, 2)})
    with pytest.raises(CheckpointError, match="no state dict"):
        from_official({"epoch": 3})


def test_heads_that_shapes_leave_open_must_be_given(state: dict[str, Tensor]) -> None:
    """A width that is no multiple of 64 needs the number of heads; it is not guessed."""
    with pytest.raises(CheckpointError, match="vision attention heads of a width of") as error:
        from_official(state)
    assert "vision_heads" in error.value.hint


@pytest.mark.parametrize("side", [3, 5])
def test_position_embeddings_are_resized_for_student_and_teacher(side: int, state: dict[str, Tensor]) -> None:
    """Another image size changes the config and both position embeddings, and nothing else."""
    before = from_official(state, **HEADS)
    after = from_official(state, image_size=side * before.config.patch_size, **HEADS)
    assert after.teacher is not None and before.teacher is not None
    assert after.config.num_patches == side**2
    for new, old in ((after.student, before.student), (after.teacher, before.teacher)):
        assert new["image_encoder.pos_embed"].shape[1] == 1 + side**2
        assert all(torch.equal(new[name], old[name]) for name in old if name != "image_encoder.pos_embed")
    AlbefForPretraining(after.config).load_state_dict(after.student)


def test_writing_is_strict_too(state: dict[str, Tensor]) -> None:
    """Our own weights with a name missing or unknown are not written."""
    weights = from_official(state, **HEADS)
    student, teacher = weights.student, weights.teacher
    with pytest.raises(CheckpointError, match=r"itm_head\.bias"):
        to_official({name: tensor for name, tensor in student.items() if name != "itm_head.bias"})
    with pytest.raises(CheckpointError, match="surprise"):
        to_official(student | {"surprise": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="temperature"):
        to_official(student, {**(teacher or {}), "temperature": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="pointer"):
        to_official(student, teacher, {"image": torch.zeros(2, 2), "text": torch.zeros(2, 2)})
