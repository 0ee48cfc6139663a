"""`pipeline evaluate retrieval` from the command line: both kinds of data, one rank and two, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from albef import Albef
from albef.model import AlbefForPretraining
from pipeline.cli import main
from tests.support.ranks import run_ranks
from tests.support.refusal import refusal
from tests.support.shards import pair, picture, write_manifest
from tests.support.small_model import small_config

NUM_IMAGES = 9
CONFIG = small_config()
KEYS = {f"{prefix}{way}_recall_at_{at}" for prefix in ("", "itc_") for way in ("i2t", "t2i") for at in (1, 5, 10)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """An exported model; nine pictures with two captions each, as files with annotations and as shards."""
    folder = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    model = AlbefForPretraining(CONFIG)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    Albef(model, max_text_tokens=20).save_pretrained(folder / "model")
    samples = [pair(number) for number in range(NUM_IMAGES)]
    write_manifest(folder / "shards", [samples[:5], samples[5:]])
    (folder / "images").mkdir()
    entries = []
    for number, sample in enumerate(samples):
        (folder / "images" / f"{number}.jpg").write_bytes(sample.jpg)
        entries.append({"image": f"{number}.jpg", "caption": list(sample.captions)})
    (folder / "annotations.json").write_text(json.dumps(entries))
    return folder


def by_annotations(folder: Path, out: Path, *more: str) -> list[str]:
    """The command over the annotation file."""
    data = ["--annotations", str(folder / "annotations.json"), "--images", str(folder / "images")]
    return ["evaluate", "retrieval", "--model", str(folder / "model"), *data, "--out", str(out), *more]


def test_metrics_are_those_of_the_exported_model(folder, tmp_path, capsys):
    """i2t recall before re-ranking, from `Albef`'s own features of the same pictures and captions; all keys are there,
    and the answer on stdout is a table and the file's name."""
    out = tmp_path / "new" / "metrics.json"
    assert main(by_annotations(folder, out, "--k-test", "4", "--device", "cpu")) == 0
    metrics = json.loads(out.read_text())
    assert set(metrics) >= KEYS | {"num_images", "num_texts"}
    assert (metrics["num_images"], metrics["num_texts"], metrics["k_test"]) == (NUM_IMAGES, 2 * NUM_IMAGES, 4)
    assert capsys.readouterr().out.rstrip().endswith(str(out))

    albef = Albef.from_pretrained(folder / "model", device="cpu")
    entries = json.loads((folder / "annotations.json").read_text())
    _, texts, _ = albef.encode_text([caption for entry in entries for caption in entry["caption"]])
    hits = 0
    for number in range(NUM_IMAGES):
        with Image.open(folder / "images" / f"{number}.jpg") as image:
            _, feat = albef.encode_image([image])
        hits += int((feat @ texts.T).argmax()) // 2 == number
    assert metrics["itc_i2t_recall_at_1"] == pytest.approx(100 * hits / NUM_IMAGES)


def test_shards_give_what_annotations_give(folder, tmp_path):
    """The same pictures and captions read from shards: the same metrics; `--captions first` halves the texts."""
    one, two, three = (tmp_path / name for name in ("one.json", "two.json", "three.json"))
    assert main(by_annotations(folder, one, "--device", "cpu")) == 0
    command = ["evaluate", "retrieval", "--model", str(folder / "model"), "--data", str(folder / "shards")]
    assert main([*command, "--out", str(two), "--device", "cpu"]) == 0
    first, second = (json.loads(path.read_text()) for path in (one, two))
    assert {name: first[name] for name in KEYS} == {name: second[name] for name in KEYS}
    assert main([*command, "--out", str(three), "--device", "cpu", "--captions", "first"]) == 0
    assert json.loads(three.read_text())["num_texts"] == NUM_IMAGES


def test_bfloat16_is_close(folder, tmp_path):
    """The same order but for near ties: recalls within one image or text of float32's at rank 10 of 9 and 18."""
    for dtype in ("float32", "bfloat16"):
        assert main(by_annotations(folder, tmp_path / f"{dtype}.json", "--dtype", dtype, "--device", "cpu")) == 0
    exact, rounded = (json.loads((tmp_path / f"{dtype}.json").read_text()) for dtype in ("float32", "bfloat16"))
    for name in KEYS:
        assert abs(exact[name] - rounded[name]) <= 100 / NUM_IMAGES + 1e-9, name


def evaluate_on_a_rank(_rank: int, _size: int, command: list[str]) -> int:
    """One rank of the command."""
    return main(command)


def test_two_ranks_write_what_one_writes(folder, tmp_path):
    """As torchrun starts them, on the CPU; rank 0 writes the one file."""
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    small_batches = ["--device", "cpu", "--batch-size", "2", "--k-test", "3"]
    assert main(by_annotations(folder, one, *small_batches)) == 0
    command = by_annotations(folder, two, *small_batches)
    assert run_ranks(evaluate_on_a_rank, 2, command, process_group=False) == [0, 0]
    assert json.loads(one.read_text()) == json.loads(two.read_text())


def test_wrong_flags_are_refused(folder, tmp_path, capsys):
    """Each before a weight is loaded, with what to do instead."""
    out = tmp_path / "metrics.json"
    base = ["evaluate", "retrieval", "--model", str(folder / "model"), "--out", str(out)]
    assert "--annotations or --data" in refusal(capsys, base)
    assert "go together" in refusal(capsys, [*base, "--annotations", str(folder / "annotations.json")])
    assert "--k-test is 0" in refusal(capsys, by_annotations(folder, out, "--k-test", "0"))
    assert "no device" in refusal(capsys, by_annotations(folder, out, "--device", "tpu9000"))
    assert "is a folder" in refusal(capsys, by_annotations(folder, tmp_path))
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"notes", b'{"mine": 1}', b'["task", "model"]', b"\xff\xfe"])
def test_a_file_that_no_evaluation_wrote_is_not_replaced(folder, tmp_path, capsys, content):
    """Refused by name before anything is loaded. An earlier result is replaced."""
    out = tmp_path / "metrics.json"
    out.write_bytes(content)
    command = by_annotations(folder, out, "--model", str(tmp_path / "nowhere"))
    assert f"--out {out} exists, and is not the result of an evaluation" in refusal(capsys, command)
    assert out.read_bytes() == content
    out.write_text(json.dumps(dict.fromkeys(("task", "model", "data", "k_test", "num_images"))))
    assert "nowhere does not exist" in refusal(capsys, command)


def test_missing_and_broken_data_is_named(folder, tmp_path, capsys):
    """No such file, no JSON, an image that is not there, an image that is none, no such model, a run folder, a .pth."""

    def error_of(**changes: object) -> str:
        flags = {
            "model": folder / "model",
            "annotations": folder / "annotations.json",
            "images": folder / "images",
            "out": tmp_path / "metrics.json",
            "device": "cpu",
        } | changes
        return refusal(capsys, ["evaluate", "retrieval", *(f"--{name}={value}" for name, value in flags.items())])

    (tmp_path / "broken.json").write_text("[{")
    (tmp_path / "missing.json").write_text(json.dumps([{"image": "no.jpg", "caption": "nothing"}]))
    (tmp_path / "bad.json").write_text(json.dumps([{"image": "bad.jpg", "caption": "rubbish"}]))
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    picture(1).save(tmp_path / "good.jpg")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "albef.pth").write_bytes(b"")
    assert "nowhere.json" in error_of(annotations=tmp_path / "nowhere.json")
    assert "not JSON" in error_of(annotations=tmp_path / "broken.json")
    assert "no.jpg" in error_of(annotations=tmp_path / "missing.json")
    assert "bad.jpg" in error_of(annotations=tmp_path / "bad.json", images=tmp_path)
    assert "nowhere does not exist" in error_of(model=tmp_path / "nowhere")
    assert "pipeline export" in error_of(model=tmp_path / "run")
    assert "pipeline import" in error_of(model=tmp_path / "albef.pth")
    assert not (tmp_path / "metrics.json").exists()
