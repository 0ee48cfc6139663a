"""Export of real DeepSpeed checkpoints: every stage, precision and world size, against the live engine's weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from albef import Albef
from albef.config import ObjectiveConfig
from albef.downstream.retrieval import AlbefForRetrieval
from albef.inputs.batch import PretrainBatch
from albef.model import AlbefForPretraining
from albef.momentum import MomentumTeacher
from albef.objective.masking import mask_tokens
from albef.objective.queue import FeatureQueue
from albef.weights.files import read_weights
from albef.weights.official import read_official
from pipeline.checkpoints.layout import new_meta
from pipeline.checkpoints.saving import CheckpointSaver
from pipeline.cli import main
from pipeline.config.resolve import load_config
from pipeline.config.sections import CheckpointConfig
from pipeline.data.sampling.lanes import lanes_of_rank
from pipeline.engine import distributed
from pipeline.engine.ds_config import resolve_ds_config
from pipeline.engine.optim import build_optimizer
from pipeline.tasks.pretraining.task import Pretraining
from pipeline.tasks.pretraining.weights import load_weights
from tests.support.checkpoints import seal
from tests.support.ranks import run_ranks
from tests.support.refusal import refusal
from tests.support.small_model import small_config
from tests.support.tiny_run import tiny_recipe

pytestmark = pytest.mark.timeout(600)  # the fixture trains twelve engines; two ranks on a busy machine spin

DS_CONFIGS = [f"zero{stage}_{precision}" for stage in (0, 1, 2) for precision in ("fp32", "bf16")]
MODEL = small_config(image_size=16, patch_size=8, hidden_dropout=0.0, attention_dropout=0.0)
OBJECTIVE = ObjectiveConfig(queue_size=12, max_text_tokens=7)
HEADS = {"vision_heads": 2, "text_heads": 2}
STEP = 2


def batch_of(lane: int) -> PretrainBatch:
    """Four random pairs."""
    draw = torch.Generator().manual_seed(lane)
    ids = torch.randint(1000, 20_000, (4, 6), generator=draw)
    ids[:, 0] = MODEL.cls_token_id
    masked = mask_tokens(ids, config=MODEL, probability=0.5, generator=draw)
    return PretrainBatch(
        image=torch.randn(4, 3, 16, 16, generator=draw),
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        mlm_input_ids=masked.mlm_input_ids,
        mlm_positions=masked.mlm_positions,
        mlm_labels=masked.mlm_labels,
        negative_draws=torch.rand(2, 4, generator=draw, dtype=torch.float64),
    )


def fp32_by_deepspeed(checkpoint: Path) -> dict[str, Tensor]:
    """What DeepSpeed's own converter makes of a checkpoint of stage 1 or 2."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    return get_fp32_state_dict_from_zero_checkpoint(str(checkpoint.parent), tag=checkpoint.name)


def engine_weights(engine: Any) -> dict[str, Tensor]:
    """The fp32 weights the optimizer steps, from the live engine; a collective at stages 1 and 2."""
    from deepspeed.utils import safe_get_full_fp32_param

    owners = dict(engine.module.named_parameters())
    if hasattr(engine.optimizer, "fp16_groups") and hasattr(engine.optimizer, "fp32_groups"):  # bf16 at stage 0
        pairs = zip(engine.optimizer.fp16_groups, engine.optimizer.fp32_groups, strict=True)
        exact = {id(low): high for lows, highs in pairs for low, high in zip(lows, highs, strict=True)}
        return {name: exact[id(parameter)].detach().clone() for name, parameter in owners.items()}
    if engine.zero_optimization():  # stage 1 in bf16 has another optimizer, this asks either
        return {name: safe_get_full_fp32_param(parameter).clone() for name, parameter in owners.items()}
    return {name: parameter.detach().clone() for name, parameter in owners.items()}


def answers(model: AlbefForPretraining | AlbefForRetrieval) -> dict[str, Tensor]:
    """The answers of a model for one batch."""
    batch = batch_of(99)
    with torch.no_grad():
        image_embeds, image_feat = model.encode_image(batch.image)
        text_embeds, text_feat = model.encode_text(batch.input_ids, batch.attention_mask)
        matched = model.match(text_embeds, batch.attention_mask, image_embeds)
    return {"image_feat": image_feat, "text_feat": text_feat, "match": matched}


def train_and_save(_rank: int, size: int, folder: str, recipe: str) -> dict[str, dict[str, dict[str, Tensor]]]:
    """One rank: two steps of two lanes under each DeepSpeed JSON, then the project's own saver."""
    import deepspeed

    world = distributed.init()
    found = {}
    for name in DS_CONFIGS:
        run = load_config(Path(recipe), [f"--deepspeed.config={name}"])
        ds = resolve_ds_config(run, world.size)
        torch.manual_seed(1)
        student = AlbefForPretraining(MODEL, OBJECTIVE)
        teacher = MomentumTeacher(student, device="cpu", compute_dtype=ds.compute_dtype)
        queue = FeatureQueue(OBJECTIVE.queue_size, MODEL.embed_dim, seed=2)
        optimizer = build_optimizer(student, run.optim, device=world.device)
        engine, *_ = deepspeed.initialize(
            model=student, optimizer=optimizer, config=ds.config, dist_init_required=False
        )
        for step in range(STEP):
            lanes = lanes_of_rank(world.rank, world.size, 2)
            for lane in lanes:
                batch = batch_of(10 * step + lane)
                targets = teacher.targets(batch)
                queue.gather(targets.image_feat, targets.text_feat, num_lanes=len(lanes))
                alpha = torch.tensor(0.4, dtype=torch.float64)
                engine.backward(engine(batch, targets, queue, alpha).total)
                engine.step()
            queue.enqueue()
            teacher.update(engine.module)
        meta = new_meta(
            run_name="tiny",
            step=STEP,
            epoch=0,
            samples_seen=STEP * 8,
            world_size=size,
            zero_stage=ds.stage,
            precision=ds.precision,
            config_hash="0123456789abcdef",
        )
        checkpoints = Path(folder) / name / "checkpoints"
        CheckpointSaver(
            folder=checkpoints,
            config=CheckpointConfig(),
            world=world,
            engine=engine,
            task=Pretraining.of_parts(student, teacher, queue),
        ).save_now(meta)
        found[name] = {
            "student": engine_weights(engine),
            "teacher": {key: tensor.clone() for key, tensor in teacher.state_dict().items()},
            "queue": {"image": queue.image.clone(), "text": queue.text.clone()},
            "answers": answers(engine.module.eval()),
        }
    distributed.shutdown()
    return found


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> dict[tuple[str, int], tuple[Path, dict[str, dict[str, Tensor]]]]:
    """(DeepSpeed JSON, ranks) -> run folder, and what the live engine held when it was saved."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = tiny_recipe(folder)
    runs: dict[tuple[str, int], Any] = {}
    for ranks in (1, 2):
        root = folder / f"ranks_{ranks}"
        found = run_ranks(train_and_save, ranks, str(root), str(recipe), process_group=False, timeout_s=250)[0]
        runs |= {(name, ranks): (root / name, facts) for name, facts in found.items()}
    return runs


def assert_equal(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Same names, same types, same bits."""
    assert set(found) == set(wanted)
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), f"{name}: {(found[name] - tensor).abs().max()}"


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", DS_CONFIGS)
def test_exported_weights_are_the_optimizers_to_the_bit(saved, tmp_path, name, ranks):
    """No process group here; every weight, fp32, and the answers of the loaded model in the trainer's precision."""
    run_folder, held = saved[name, ranks]
    assert not dist.is_initialized()
    assert all(tensor.dtype == torch.float32 for tensor in held["student"].values())
    assert main(["export", str(run_folder), "--out", str(tmp_path / "model")]) == 0
    albef = Albef.from_pretrained(tmp_path / "model", device="cpu")
    assert_equal(dict(albef.model.named_parameters()), held["student"])
    trained_in = torch.bfloat16 if name.endswith("bf16") else torch.float32
    for what, answer in answers(albef.model.to(trained_in)).items():
        # 1e-6: the rank had one thread, this process may have more
        assert torch.allclose(answer, held["answers"][what], rtol=0, atol=1e-6), what


@pytest.mark.parametrize("name", ["zero1_fp32", "zero2_fp32", "zero2_bf16"])
def test_partitions_are_put_together_as_deepspeed_does(saved, name):
    """Against zero_to_fp32, where it reads the checkpoint (it refuses stage 1 in bf16 with fp32 accumulation)."""
    run_folder, _ = saved[name, 2]
    assert_equal(load_weights(run_folder).student, fp32_by_deepspeed(step_folder(run_folder)))


def test_bf16_training_moved_the_weights_by_less_than_bf16_shows(saved):
    """The case the masters are for: exporting the bf16 copy instead would lose bits of most weights."""
    _, held = saved["zero0_bf16", 1]
    lost = [name for name, tensor in held["student"].items() if not torch.equal(tensor, tensor.bfloat16().float())]
    assert len(lost) > 0.9 * len(held["student"])


def test_teacher_weights_take_the_students_place(saved, tmp_path):
    """--weights teacher: the average where there is one; matching head and temperature are the student's."""
    run_folder, held = saved["zero2_bf16", 2]
    assert main(["export", str(run_folder), "--out", str(tmp_path / "model"), "--weights", "teacher"]) == 0
    found = dict(Albef.from_pretrained(tmp_path / "model", device="cpu").model.named_parameters())
    assert_equal(found, held["student"] | held["teacher"])
    assert {name for name in found if name not in held["teacher"]} == {
        "temperature",
        "itm_head.weight",
        "itm_head.bias",
    }


@pytest.mark.parametrize("name", ["zero0_bf16", "zero1_fp32"])
def test_official_layout_holds_student_teacher_and_queues(saved, tmp_path, name):
    """What the official scripts would read: `model` with `_m` keys, queues as columns, a zero-dimensional `temp`."""
    run_folder, held = saved[name, 2]
    checkpoint = run_folder / "checkpoints" / f"step_{STEP:08d}"
    assert main(["export", str(checkpoint), "--out", str(tmp_path / "model"), "--format", "official"]) == 0
    official = torch.load(tmp_path / "model" / "albef.pth", weights_only=True)["model"]
    assert official["temp"].shape == ()
    assert torch.equal(official["image_queue"], held["queue"]["image"].T)
    assert torch.equal(official["text_queue"], held["queue"]["text"].T)
    assert int(official["queue_ptr"]) == STEP * 8 % OBJECTIVE.queue_size
    weights = read_official(tmp_path / "model" / "albef.pth", **HEADS)
    assert_equal(weights.student, held["student"])
    assert_equal(weights.teacher or {}, held["teacher"])


def test_exported_folder_is_complete_and_states_its_origin(saved, tmp_path):
    """Weights, shape, tokenizer, preprocessing; a card with the run's own facts and its validation of that step."""
    run_folder, _ = saved["zero1_bf16", 2]
    lines = [{"step": 1, "val/i2t_recall_at_1": 1.0}, {"step": STEP, "val/i2t_recall_at_1": 12.5}]
    (run_folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = tmp_path / "model"
    assert main(["export", str(run_folder / "checkpoints"), "--out", str(out)]) == 0
    (run_folder / "metrics.jsonl").unlink()
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }
    card = (out / "README.md").read_text()
    for fact in ("| run | tiny |", "| optimizer steps | 2 |", "16 (with repetition)", "bf16, ZeRO stage 1, 2 ranks"):
        assert fact in card
    assert "| i2t_recall_at_1 | 12.50 |" in card
    assert json.loads((out / "config.json").read_text())["max_text_tokens"] == OBJECTIVE.max_text_tokens
    assert oct(out.stat().st_mode)[-3:] == "755" or out.stat().st_mode & 0o700 == 0o700


@pytest.fixture
def copy(saved, tmp_path) -> Path:
    """A run folder to damage."""
    return Path(shutil.copytree(saved["zero1_fp32", 2][0], tmp_path / "run"))


def step_folder(run_folder: Path) -> Path:
    return run_folder / "checkpoints" / f"step_{STEP:08d}"


@pytest.mark.parametrize("file", ["mp_rank_00_model_states.pt", "teacher.safetensors", "queue.safetensors"])
def test_a_changed_file_is_named(copy, tmp_path, capsys, file):
    """One flipped byte; nothing is written."""
    path = step_folder(copy) / file
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert file in refusal(capsys, ["export", str(copy), "--out", str(tmp_path / "model")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_file_that_is_no_checkpoint_is_refused_although_its_checksum_agrees(copy, tmp_path, capsys):
    """Rubbish saved as rubbish: torch's exceptions become one sentence."""
    (step_folder(copy) / "zero_pp_rank_1_mp_rank_00_optim_states.pt").write_bytes(b"not a pickle")
    seal(step_folder(copy))
    assert "cannot be read" in refusal(capsys, ["export", str(copy), "--out", str(tmp_path / "model")])


def test_weights_of_another_shape_are_refused(copy, tmp_path, capsys):
    """model_config.json that asks for a second multimodal layer: the missing names are listed."""
    path = step_folder(copy) / "model_config.json"
    values = json.loads(path.read_text())
    values["model"]["fusion_depth"] = 2
    path.write_text(json.dumps(values))
    seal(step_folder(copy))
    error = refusal(capsys, ["export", str(copy), "--out", str(tmp_path / "model")])
    assert "missing" in error
    assert "multimodal_encoder.layers.1." in error


def test_masters_that_are_not_the_models_are_refused(saved, tmp_path, capsys):
    """bf16 at stage 0: the optimizer's weights carry no names, so each must round to the model's own."""
    run_folder = Path(shutil.copytree(saved["zero0_bf16", 1][0], tmp_path / "run"))
    path = step_folder(run_folder) / "mp_rank_00_model_states.pt"
    states = torch.load(path, weights_only=True)
    states["module"]["itm_head.weight"] += 1
    torch.save(states, path)
    seal(step_folder(run_folder))
    assert "itm_head.weight is not the rounding" in refusal(
        capsys, ["export", str(run_folder), "--out", str(tmp_path / "model")]
    )


def test_what_is_not_a_checkpoint_is_refused(copy, tmp_path, capsys):
    """A wrong path, an empty folder, an unfinished save, a step that is not there, a flag that does not exist."""
    out = ["--out", str(tmp_path / "model")]
    (tmp_path / "empty").mkdir()
    assert "does not exist" in refusal(capsys, ["export", str(tmp_path / "nowhere"), *out])
    assert "no finished checkpoint" in refusal(capsys, ["export", str(tmp_path / "empty"), *out])
    assert f"step_{STEP:08d}" in refusal(capsys, ["export", str(copy / "checkpoints" / "step_00000009"), *out])
    assert "--weights" in refusal(capsys, ["export", str(copy), *out, "--weight", "teacher"])
    (step_folder(copy) / "meta.json").unlink()
    assert "not a finished checkpoint" in refusal(capsys, ["export", str(copy), *out])


def test_the_output_folder_is_replaced_only_when_asked_and_only_if_it_was_exported(copy, tmp_path, capsys):
    """Not empty: refused; --overwrite: replaced whole; anything that is not an exported model: never."""
    out = tmp_path / "model"
    command = ["export", str(copy), "--out", str(out)]
    assert main(command) == 0
    (out / "notes.txt").write_text("a person's")
    assert "--overwrite" in refusal(capsys, command)
    assert "something other than an exported model, such as notes.txt" in refusal(capsys, [*command, "--overwrite"])
    assert (out / "notes.txt").read_text() == "a person's"
    (out / "notes.txt").unlink()
    (out / "README.md").write_text("of the earlier export")
    assert main([*command, "--overwrite"]) == 0
    assert (out / "README.md").read_text() != "of the earlier export"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "run"]  # nothing temporary left
    assert "something other" in refusal(capsys, ["export", str(copy), "--out", str(copy), "--overwrite"])
    (tmp_path / "file").write_text("")
    assert "not a folder" in refusal(capsys, ["export", str(copy), "--out", str(tmp_path / "file")])
    assert "cannot be written" in refusal(capsys, ["export", str(copy), "--out", str(tmp_path / "file" / "model")])


def test_read_back_weights_carry_no_extra_names(saved, tmp_path):
    """The safetensors file is the state dict and nothing else: what other tools will see."""
    assert main(["export", str(saved["zero2_fp32", 1][0]), "--out", str(tmp_path / "model")]) == 0
    assert_equal(read_weights(tmp_path / "model" / "model.safetensors"), saved["zero2_fp32", 1][1]["student"])
