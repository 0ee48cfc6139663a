"""A corpus of two folders, by every rule: which samples stay, why the others do not, and that every row is counted."""

from __future__ import annotations

import json
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from base.errors import UsageError
from data_prep.cli import main
from data_prep.errors import FolderError, InputError, YieldError
from data_prep.filters.corpus import Corpus
from data_prep.filters.evaluation_sets import EvaluationSet
from data_prep.filters.settings import FilterSettings
from data_prep.filters.verification import verify_corpus
from data_prep.shards.manifest import keys_digest, read_manifest, write_manifest
from tests.support.data_prep_runs import start, wait_for
from tests.support.filtering import Entry, contents, detailed, filter_here, kept, pack, removed

SETTINGS = FilterSettings(max_images_per_caption=3)


def entries_of_web() -> list[Entry]:
    flat = Image.new("RGB", (100, 100), "gray")
    return [
        (detailed(0, 120, 100), "a kept picture"),
        (detailed(1, 50, 50), "too small a picture"),
        (detailed(2, 400, 70), "too wide a picture"),
        (detailed(3, 120, 100), "word"),
        (detailed(4, 120, 100), ["word", "another caption saves this one"]),
        (detailed(5, 120, 100), "12345 67890"),
        (detailed(6, 120, 100), "sale sale sale sale here"),
        (detailed(0, 120, 100), "the very same picture again"),
        (ImageOps.mirror(detailed(0, 120, 100)).resize((240, 200)), "its mirror image, larger"),
        (detailed(50, 120, 100), "a picture of the evaluation set"),
        (flat, "a flat picture"),
        (flat, "the same flat picture"),
        (detailed(50, 60, 50), "small, and of the evaluation set"),
    ]


def entries_of_coco() -> list[Entry]:
    return [
        (detailed(0, 96, 80), "a smaller copy from another folder"),
        *((detailed(20 + number, 120, 100), "image not available") for number in range(4)),
        (detailed(30, 120, 100), ["image not available", "but there is more to say"]),
        (detailed(31, 120, 100), "the last of them"),
    ]


WHY = {
    "web-000000001": "image_size",
    "web-000000002": "image_aspect",
    "web-000000003": "caption_length",
    "web-000000005": "caption_alphabet",
    "web-000000006": "caption_repetition",
    "web-000000007": "exact_duplicate",
    "web-000000008": "near_duplicate",
    "web-000000009": "decontamination",
    "web-000000011": "exact_duplicate",
    "web-000000012": "decontamination",
    "coco-000000000": "near_duplicate",
    **{f"coco-00000000{number}": "common_caption" for number in range(1, 5)},
}
STAYS = ["web-000000000", "web-000000004", "web-000000010", "coco-000000005", "coco-000000006"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    pack(root, "web", entries_of_web())
    pack(root, "coco", entries_of_coco())
    (root / "evaluation" / "sub").mkdir(parents=True)
    detailed(50, 120, 100).resize((200, 166)).save(root / "evaluation" / "sub" / "fifty.png")
    detailed(51, 120, 100).save(root / "evaluation" / "fifty-one.jpg")
    return root


@pytest.fixture
def sources(packed: Path, tmp_path: Path) -> list[Path]:
    shutil.copytree(packed / "web", tmp_path / "web")
    shutil.copytree(packed / "coco", tmp_path / "coco")
    return [tmp_path / "web", tmp_path / "coco"]


def evaluation_set(packed: Path) -> list[EvaluationSet]:
    return [EvaluationSet("tests", packed / "evaluation", packed / "evaluation")]


def test_every_rule_drops_what_it_should_and_says_why(packed: Path, sources: list[Path], tmp_path: Path) -> None:
    """Fifteen of twenty samples, each by the first rule in the documented order; duplicates across folders too."""
    out = tmp_path / "corpus"
    filtered = filter_here(out, sources, SETTINGS, evaluation_set(packed))
    lines = removed(out)
    assert {key: line["rule"] for key, line in lines.items()} == WHY
    assert kept(out) == STAYS
    assert filtered.notes == ("1 kept images are flat: compared byte for byte only",)
    # A copy's leader is the earliest that stays, in any folder; an evaluation image is named by set and path.
    leaders = {key: line.get("like") for key, line in lines.items()}
    assert leaders["web-000000007"] == leaders["web-000000008"] == leaders["coco-000000000"] == "web-000000000"
    assert leaders["web-000000011"] == "web-000000010"
    assert leaders["web-000000009"] == leaders["web-000000012"] == "tests/sub/fifty.png"
    assert lines["web-000000001"]["detail"] == "50 x 50: a side shorter than 64"
    assert lines["web-000000007"]["distance"] == 0


def test_the_manifest_names_the_same_tars_and_adds_up(packed: Path, sources: list[Path], tmp_path: Path) -> None:
    """Tars, their sizes and hashes are the folders' own; offsets are those of the samples that stay."""
    before = {path: path.read_bytes() for source in sources for path in source.rglob("*.*") if path.is_file()}
    out = tmp_path / "corpus"
    filter_here(out, sources, SETTINGS, evaluation_set(packed))
    assert {path: path.read_bytes() for path in before} == before, "the folders are as they were"
    rows = read_manifest(out / "manifest.parquet")
    of_folders = [row for source in sources for row in read_manifest(source / "manifest.parquet")]
    assert [row["path"] for row in rows] == [f"../{row['source']}/{row['path']}" for row in of_folders]
    for row, whole in zip(rows, of_folders, strict=True):
        assert {name: row[name] for name in ("bytes", "sha256", "listed", "source", "tools", "created")} == {
            name: whole[name] for name in ("bytes", "sha256", "listed", "source", "tools", "created")
        }
        places = dict(zip(whole["keys"], zip(whole["offsets"], whole["lengths"], strict=True), strict=True))
        assert [places[key] for key in row["keys"]] == list(zip(row["offsets"], row["lengths"], strict=True))
        assert row["num_samples"] + sum(item["count"] for item in row["filtered"]) == row["listed"]
        changed = row["keys"] != whole["keys"]
        assert row["keys_sha256"] == (keys_digest(row["keys"]) if changed else None)
    datasheet = json.loads((out / "datasheet.json").read_text())
    assert datasheet["listed"] == 20 and datasheet["kept"] == 5 and sum(datasheet["filtered"].values()) == 15
    assert datasheet["sources"]["coco"]["filtered"] == {"common_caption": 4, "near_duplicate": 1}


def test_rules_that_are_off_and_dry_runs(packed: Path, sources: list[Path], tmp_path: Path) -> None:
    """A dry run counts the same and writes features only, which the run after it takes; --off lets samples pass."""
    dry = filter_here(tmp_path / "dry", sources, SETTINGS, evaluation_set(packed), dry_run=True)
    assert not (tmp_path / "dry" / "manifest.parquet").exists() and not (tmp_path / "dry" / "corpus.json").exists()
    features = tmp_path / "dry" / "features"
    times = {path.name: path.stat().st_mtime_ns for path in features.iterdir()}
    assert len(times) == 4 + 2 + 1, "a file a shard, and one of the evaluation set"
    wet = filter_here(tmp_path / "wet", sources, SETTINGS, evaluation_set(packed), features=features)
    assert {path.name: path.stat().st_mtime_ns for path in features.iterdir()} == times
    assert not (tmp_path / "wet" / "features").exists()
    counts = {source: (account.kept, account.filtered) for source, account in wet.accounts.items()}
    assert counts == {source: (account.kept, account.filtered) for source, account in dry.accounts.items()}
    off = FilterSettings(max_images_per_caption=3, off=("common_caption", "near_duplicate", "exact_duplicate"))
    more = filter_here(tmp_path / "off", sources, off, features=features)
    assert more.accounts["coco"].kept == 7 and "common_caption" not in more.accounts["coco"].filtered
    assert more.accounts["web"].kept == 13 - 6, "small, wide, small again, and three bad captions"


def test_interruptions_and_processes_leave_the_same_bytes(packed: Path, sources: list[Path], tmp_path: Path) -> None:
    """Three threads, a run that begins with half of the features, and the same run twice."""
    filter_here(tmp_path / "one", sources, SETTINGS, evaluation_set(packed))
    expected = contents(tmp_path / "one")
    for path in sorted((tmp_path / "one" / "features").iterdir())[::2]:
        path.unlink()
    (tmp_path / "one" / "features" / ".half.v1.parquet.1.tmp").write_bytes(b"PAR1")
    (tmp_path / "one" / ".manifest.parquet.1.tmp").write_bytes(b"PAR1")
    (tmp_path / "one" / "removed" / "web-00099.jsonl").write_text('{"key": "stale"}\n')
    filter_here(tmp_path / "one", sources, SETTINGS, evaluation_set(packed), processes=3)
    assert contents(tmp_path / "one") == expected
    assert not list((tmp_path / "one").rglob(".*.tmp"))


def test_a_finished_corpus_does_not_become_another(packed: Path, sources: list[Path], tmp_path: Path) -> None:
    """Other rules, other folders, and a folder of shards for --out are refused with the difference."""
    out = tmp_path / "corpus"
    filter_here(out, sources, SETTINGS)
    before = contents(out)
    with pytest.raises(FolderError, match=r"other rules: near_distance 24 then, 8 now") as error:
        filter_here(out, sources, FilterSettings(max_images_per_caption=3, near_distance=8))
    assert "--features" in error.value.hint
    with pytest.raises(FolderError, match=r"other data: 2 then, 1 now"):
        filter_here(out, sources[:1], SETTINGS)
    with pytest.raises(FolderError, match="other sets"):
        filter_here(out, sources, SETTINGS, evaluation_set(packed))
    with pytest.raises(FolderError, match=r"shards exists but .*corpus\.json is missing"):
        filter_here(sources[0], sources[1:], SETTINGS)
    assert contents(out) == before
    (out / "manifest.parquet").unlink()  # unfinished: may start again
    filter_here(out, sources[:1], SETTINGS)
    assert {row["source"] for row in read_manifest(out / "manifest.parquet")} == {"web"}


def test_what_cannot_be_filtered_is_refused(packed: Path, sources: list[Path], tmp_path: Path) -> None:
    """No manifest, the same source twice, a tar that changed, and rules that leave nothing."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no manifest\.parquet in .*empty"):
        filter_here(tmp_path / "out", [tmp_path / "empty"])
    shutil.copytree(sources[0], tmp_path / "web again")
    with pytest.raises(UsageError, match="both hold samples of web"):
        filter_here(tmp_path / "out", [sources[0], tmp_path / "web again"])
    with pytest.raises(YieldError, match="none of 20 samples passes the rules: 17 caption_length"):
        filter_here(tmp_path / "out", sources, FilterSettings(min_words=90))
    tar = sources[0] / "shards" / "web-00001.tar"
    tar.write_bytes(tar.read_bytes()[:-1] + b"\1")
    with pytest.raises(FolderError, match=r"web-00001\.tar: its sha256 is"):
        filter_here(tmp_path / "other", sources)
    assert not (tmp_path / "other" / "manifest.parquet").exists()


def test_a_corpus_can_be_filtered_again(packed: Path, sources: list[Path], tmp_path: Path) -> None:
    """What the first filter dropped stays dropped, counted and listed."""
    first, second = tmp_path / "first", tmp_path / "second" / "deeper"
    loose = FilterSettings(max_images_per_caption=3, off=("near_duplicate", "common_caption"))
    filter_here(first, sources, loose)
    filter_here(second, [first], SETTINGS, evaluation_set(packed))
    assert kept(second) == STAYS
    assert {key: line["rule"] for key, line in removed(second).items()} == WHY | {"web-000000012": "image_size"}
    assert read_manifest(second / "manifest.parquet")[0]["path"] == "../../web/shards/web-00000.tar"
    assert json.loads((second / "datasheet.json").read_text())["listed"] == 20
    assert main(["verify", str(second), "--processes", "1"]) == 0


def test_verify_and_status_know_a_corpus(
    packed: Path, sources: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A whole one passes; a changed source is reported; a changed tar or a lost list withdraws the manifest."""
    out = tmp_path / "corpus"
    filter_here(out, sources, SETTINGS)
    manifest = (out / "manifest.parquet").read_bytes()
    assert main(["verify", str(out), "--processes", "1"]) == 0
    assert "6 shards, 6 samples, 0 problems" in capsys.readouterr().out
    assert (out / "manifest.parquet").read_bytes() == manifest
    (sources[1] / "manifest.parquet").write_bytes((sources[0] / "manifest.parquet").read_bytes())
    assert main(["status", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "coco/manifest.parquet has changed since it was filtered" in printed
    assert "filtered           4  common_caption" in printed and "web/manifest" not in printed
    assert main(["verify", str(out), "--processes", "1"]) == 0
    assert "has changed since it was filtered" in capsys.readouterr().out

    (out / "removed" / "coco-00000.jsonl").rename(out / "aside")
    tar = sources[0] / "shards" / "web-00001.tar"
    good = tar.read_bytes()
    tar.write_bytes(good[:700] + bytes([good[700] ^ 1]) + good[701:])
    assert main(["verify", str(out), "--processes", "1"]) == 1
    printed = capsys.readouterr().out
    assert "wrong: web-00001.tar: sha256 of the tar is" in printed
    assert "wrong: coco-00000.tar: {'common_caption': 3, 'near_duplicate': 1} were filtered" in printed
    assert "moved to" in printed and not (out / "manifest.parquet").exists()


def test_verify_finds_a_manifest_that_names_other_places(sources: list[Path], tmp_path: Path) -> None:
    """An offset that is not the sample's, a key that is not in the tar, a selection that is not the hashed one."""
    out = tmp_path / "corpus"
    filter_here(out, sources, SETTINGS)
    good = read_manifest(out / "manifest.parquet")
    for name, value in (("offsets", 512), ("keys", "web-000000001"), ("keys_sha256", "0" * 64)):
        rows = [{**row} for row in good]
        rows[0][name] = value if name == "keys_sha256" else [value, *rows[0][name][1:]]
        write_manifest(out, rows)
        with ThreadPoolExecutor(1) as pool:
            result = verify_corpus(Corpus(out), pool, 1)
        assert result.problems and result.withdrawn, name


def test_kill_9_in_mid_run_then_the_same_bytes(tmp_path: Path) -> None:
    """A real process, killed when its first features are there; the same command resumes, to the same outcome."""
    pictures: list[Entry] = [(detailed(n % 200, 90, 80), f"picture number {n}") for n in range(240)]
    source = pack(tmp_path, "web", pictures, shard_size=6)
    out = tmp_path / "corpus"
    words = ("filter", source, "--out", out, "--processes", 1)
    process = start(*words)
    wait_for(lambda: len(list((out / "features").glob("*.parquet"))) >= 2, "two shards' features")
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (out / "manifest.parquet").exists()
    done = {path.name: path.stat().st_mtime_ns for path in (out / "features").glob("*.parquet")}
    assert 2 <= len(done) < 40
    assert main([str(word) for word in words]) == 0
    assert {name: (out / "features" / name).stat().st_mtime_ns for name in done} == done
    filter_here(tmp_path / "undisturbed", [source])
    assert contents(out) == contents(tmp_path / "undisturbed")
    assert len(kept(out)) == 200
