"""`check`: the arithmetic it prints, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from albef.model import AlbefForPretraining
from pipeline import cli
from pipeline.config.resolve import load_config, resolve
from pipeline.engine.ds_config import resolve_ds_config
from pipeline.planning.memory import estimate_memory, saved_bytes
from pipeline.tasks.pretraining.maker import PRETRAINING
from tests.support.shards import write_corpus
from tests.support.tiny_run import tiny_recipe

TINY = {"model": {"size": "tiny"}, "batch": {"global_batch_size": 8, "micro_batch_size": 2}}


def test_prints_recipe_json_batch_memory_and_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """48 pairs in three shards, lanes of four: six steps an epoch; on two ranks one lane each."""
    recipe = tiny_recipe(tmp_path)
    assert cli.main(["check", str(recipe), "--optim.lr", "2e-3", "--world-size", "2"]) == 0
    text = capsys.readouterr().out
    for line in (
        "global_batch_size 8 = micro_batch_size 4 x grad_accum_steps 1 x world_size 2",
        "2 lanes: runs on 1, 2 ranks",
        '"train_micro_batch_size_per_gpu": 4',
        "3 shards, 48 samples, 0 of them left out of each epoch",
        "6 steps an epoch, 10 steps in all (1.7 epochs)",
        "contrastive candidates 24 (lane 4 + queue 20)",
        "learning rate first, after warm-up, half way, last: 0.0001, 0.002",
    ):
        assert line in text, f"{line!r} is not in\n{text}"
    resolved = text.split("\n\n== DeepSpeed")[0].split("resolved\n", 1)[1]
    (tmp_path / "again.yaml").write_text(resolved)
    assert load_config(tmp_path / "again.yaml") == load_config(recipe, ["--optim.lr", "2e-3"])


def test_missing_data_is_reported_and_mistakes_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A recipe can be checked before its shards exist; a world that does not fit cannot be run at all."""
    recipe = str(tiny_recipe(tmp_path))
    assert cli.main(["check", recipe, "--data.manifests", "nowhere"]) == 2
    printed = capsys.readouterr()
    assert "not ready, training will refuse: no manifest at nowhere" in printed.out
    assert "error: no manifest at nowhere\nhint: " in printed.err
    assert cli.main(["check", recipe, "--data.manifests", "nowhere", "--without-data"]) == 0
    assert cli.main(["check", recipe, "--world-size", "3"]) == 2
    assert (
        "global_batch_size 8 is not micro_batch_size 4 x grad_accum_steps 1 x world_size 3" in capsys.readouterr().err
    )
    assert cli.main(["check", recipe, "--world-size", "0"]) == 2


def test_all_that_training_would_refuse_is_named_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run folder, shards, both weight files, validation: each an error with a hint, and nothing is made."""
    recipe = str(tiny_recipe(tmp_path))
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "page.pth").write_text("<html>")
    flags = ["--run-dir", str(tmp_path / "file"), "--data.manifests", "nowhere", "--validation.manifest", "nothing"]
    weights = ["--init.image", str(tmp_path / "gone.pth"), "--init.text", str(tmp_path / "page.pth")]
    assert cli.main(["check", recipe, *flags, *weights]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    for error, words in zip(
        errors,
        (
            "file cannot be written",
            "no manifest at nowhere",
            "gone.pth does not exist",
            "page.pth",
            "no manifest at nothing",
        ),
        strict=True,
    ):
        assert words in error, errors
    assert {path.name for path in tmp_path.iterdir()} == {"file", "page.pth", "shards", "tiny.yaml"}


def test_weights_are_compared_by_their_headers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the right names and shapes: ready; of another model: what does not fit. As .safetensors and .pth."""
    recipe = tiny_recipe(tmp_path)
    run = load_config(recipe)
    state = AlbefForPretraining(run.model, run.objective).image_encoder.state_dict()
    save_file(state, tmp_path / "whole.safetensors")
    torch.save({"model": state}, tmp_path / "whole.pth")
    torch.save({name: tensor for name, tensor in state.items() if "blocks.1" not in name}, tmp_path / "half.pth")
    for name, code in (("whole.safetensors", 0), ("whole.pth", 0), ("half.pth", 2)):
        assert cli.main(["check", str(recipe), "--init.image", str(tmp_path / name)]) == code, name
    printed = capsys.readouterr().err
    assert printed.count("error: ") == 1 and "half.pth does not fit" in printed and "blocks.1" in printed, printed


def test_a_run_folder_that_cannot_resume_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another seed, other data, and --resume never, of a run that has a checkpoint; a run that fits is ready."""
    recipe = str(tiny_recipe(tmp_path))
    run_dir = tmp_path / "run"
    assert cli.main(["pretrain", recipe, "--run-dir", str(run_dir), "--max_steps", "1"]) == 0
    write_corpus(tmp_path / "more", [30], source="more")
    check = ["check", recipe, "--run-dir", str(run_dir)]
    assert cli.main([*check, "--resume", "must"]) == 0
    capsys.readouterr()
    for flags, words in (
        (["--seed", "9"], "cannot resume with this recipe: seed was"),
        (["--data.manifests", str(tmp_path / "more")], "holds a run on other data"),
        (["--resume", "never"], "--resume never"),
    ):
        assert cli.main([*check, *flags]) == 2
        assert words in capsys.readouterr().err


def test_more_shared_memory_than_there_is_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """10 workers that each prepare a million micro-batches of 12,288 bytes: 117,187 MiB, and two lanes more."""
    words = ["check", str(tiny_recipe(tmp_path)), "--data.num_workers", "10", "--data.prefetch", "1000000"]
    assert cli.main([*words, "--world-size", "1"]) == 0
    assert "warning: data workers need up to 117,187.5 MiB of /dev/shm, but" in capsys.readouterr().out


def test_sources_are_reckoned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """48 and 20 pairs: by size, 48 / 68; with weights 1 : 1 twenty of each make five steps of eight."""
    recipe = str(tiny_recipe(tmp_path))
    write_corpus(tmp_path / "more", [10, 10], source="more")
    manifests = f"--data.manifests={tmp_path / 'shards'},{tmp_path / 'more'}"
    assert cli.main(["check", recipe, manifests]) == 0
    assert f"source {tmp_path / 'shards'}: 48 samples, share 0.7059 by size" in capsys.readouterr().out
    assert cli.main(["check", recipe, manifests, "--data.weights=1,1"]) == 0
    text = capsys.readouterr().out
    for line in (
        "5 shards, 68 samples, 28 of them left out of each epoch",
        "shards: 48 samples, share 0.5000, 20 in each epoch (28 left for later epochs, all seen after 3)",
        "more: 20 samples, share 0.5000, 20 in each epoch (all of it)",
        "5 steps an epoch, 10 steps in all (2.0 epochs)",
    ):
        assert line in text, f"{line!r} is not in\n{text}"
    assert cli.main(["check", recipe, manifests, "--data.weights=1"]) == 2
    assert "data.weights has 1 numbers for 2 sources" in capsys.readouterr().err


def test_the_cost_of_streaming_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For stores without ranges: what an epoch moves and what the first batch waits for; and what is missing for it."""
    streaming = ["check", str(tiny_recipe(tmp_path)), "--data.shard_opener", "pipe:cat {path}"]
    assert cli.main([*streaming, "--data.cache_dir", str(tmp_path)]) == 0
    assert "once, because all of it fits; the first batch waits for up to 8 shards" in capsys.readouterr().out
    assert cli.main(streaming) == 2
    assert "data.shard_opener needs data.cache_dir" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ds", "weights", "gradients", "optimizer", "teacher"),
    [("zero0_fp32", 4, 4, 8, 4), ("zero0_bf16", 2, 6, 12, 6), ("zero1_bf16", 2, 6, 3, 6), ("zero2_bf16", 2, 3, 3, 6)],
)
def test_memory_is_bytes_a_parameter(ds: str, weights: int, gradients: int, optimizer: int, teacher: int) -> None:
    """On four ranks, by hand: bf16 keeps fp32 masters; stage 1 shares the optimizer's 12 bytes, stage 2 gradients."""
    run = resolve(TINY | {"deepspeed": {"config": ds}}, name="r")
    memory = estimate_memory(run, resolve_ds_config(run, 4), PRETRAINING, 4)
    buffer = 4 * 50_000_000 if ds.startswith("zero2") else 0
    count = memory.parameters
    # whole bytes: a quarter of a parameter's byte may be rounded away
    assert memory.weights == weights * count and abs(memory.gradients - buffer - gradients * count) <= 1
    assert abs(memory.optimizer - optimizer * count) <= 1
    averaged = sum(weight.numel() for weight in PRETRAINING.sketch(run, torch.float32).state()["teacher"].values())
    assert memory.beside == {"teacher": teacher * averaged, "queue": 2 * 65_536 * 128 * 4}


def test_activations_grow_with_batch_and_precision() -> None:
    """Twice the batch keeps twice as much, and bf16 keeps less than fp32."""
    run = resolve(TINY | {"objective": {"queue_size": 16}}, name="r")
    fp32, bf16 = (PRETRAINING.sketch(run, dtype) for dtype in (torch.float32, torch.bfloat16))
    two, four = (saved_bytes(fp32, PRETRAINING.noise(run, size)) for size in (2, 4))
    assert 1.8 < four / two < 2.2
    assert saved_bytes(bf16, PRETRAINING.noise(run, 4)) < four
