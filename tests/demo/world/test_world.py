"""`python -m demo.world`: what it writes is true, balanced, held out where it should be, and always the same."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from albef.inputs.tokenizer import AlbefTokenizer
from demo.pictures import PictureArchive
from demo.world.__main__ import main
from samples.captions import clean_caption
from tests.support import world_truth
from tests.support.world_truth import COLOURS, SHAPES, Facts

SIDE = 64
HELD_OUT = ("val", "test", "test_new")
SPLITS = ("train", *HELD_OUT)
SMALL = ["--scenes", "160", "--held-out", "120"]
RECORDED = "4a0466cc5c21f1208e784795374679103aaa64ca004ab8644f464ce872fb4e17"
"""SHA-256 of the pixels and annotations of the small world, drawn on an AMD EPYC with numpy 2.4 and Python 3.11."""
PALETTE = {
    "red": (220, 50, 50),
    "orange": (250, 140, 30),
    "yellow": (250, 215, 50),
    "green": (60, 165, 80),
    "blue": (45, 110, 220),
    "purple": (130, 65, 180),
    "pink": (245, 145, 195),
    "black": (45, 45, 50),
}


class Written:
    """A written world, read back."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.readme = (out / "README.md").read_text()
        with (out / "scenes.jsonl").open() as lines:
            self.facts: dict[str, Facts] = {row["image"]: row["things"] for row in map(json.loads, lines)}

    def rows(self, name: str) -> Any:
        return json.loads((self.out / "annotations" / f"{name}.json").read_text())

    def texts(self, split: str) -> Iterator[str]:
        """Every text of a split."""
        for row in self.rows(f"retrieval_{split}"):
            yield from [row["caption"]] if isinstance(row["caption"], str) else row["caption"]
        for task, key in (("vqa", "question"), ("nlvr", "sentence"), ("ve", "sentence"), ("grounding", "text")):
            yield from (row[key] for row in self.rows(f"{task}_{split}"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """The default difficulty, small."""
    out = tmp_path_factory.mktemp("world") / "small"
    assert main([str(out), *SMALL]) == 0
    return Written(out)


@pytest.fixture(scope="module")
def hard(tmp_path_factory: pytest.TempPathFactory) -> Written:
    """Three or four things, many of them alike, two relations, noise, pictures in a folder, lists of URLs."""
    out = tmp_path_factory.mktemp("world") / "hard"
    flags = ["--things", "3", "4", "--look-alikes", "0.8", "--relations", "left of", "above", "--noise", "0.3"]
    flags += ["--seed", "7", "--images", "folder", "--url-root", "http://127.0.0.1:8000/pictures"]
    assert main([str(out), "--scenes", "100", "--held-out", "100", *flags]) == 0
    return Written(out)


@pytest.fixture(params=["world", "hard"])
def each(request: pytest.FixtureRequest) -> Written:
    written: Written = request.getfixturevalue(request.param)
    return written


@pytest.mark.parametrize("split", SPLITS)
def test_captions_are_true(each: Written, split: str) -> None:
    """Of their own picture; those of an evaluation split of no other picture in it."""
    rows = each.rows(f"retrieval_{split}")
    for row in rows:
        captions = [row["caption"]] if split == "train" else row["caption"]
        assert len(captions) == len(set(captions)) >= 1
        for caption in captions:
            assert world_truth.caption_is_true(each.facts[row["image"]], caption, SIDE), (row["image"], caption)
    if split != "train":
        others = {row["image"] for row in rows}
        for row in rows[:12]:
            for caption in row["caption"]:
                true_of = [name for name in others if world_truth.caption_is_true(each.facts[name], caption, SIDE)]
                assert true_of == [row["image"]], caption


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_right(each: Written, split: str) -> None:
    """Each is in the answer list and what trying everything gives."""
    answers = each.rows("answer_list")
    assert len(answers) == len(set(answers))
    for row in each.rows(f"vqa_{split}"):
        right = world_truth.answer(each.facts[row["image"]], row["question"], SIDE)
        assert row["answer"] == [right] * 10 and right in answers, (row, each.facts[row["image"]])


@pytest.mark.parametrize("split", SPLITS)
def test_statements_about_two_pictures_are_labelled_right(each: Written, split: str) -> None:
    """Each sentence has two true and two false pairs; a picture that it is not about gives nothing away, nor does
    either picture where the two are compared."""
    by_sentence = defaultdict(list)
    rows = each.rows(f"nlvr_{split}")
    for start in range(0, len(rows), 4):
        group = rows[start : start + 4]
        assert len({row["sentence"] for row in group}) == 1
        for row in group:
            first, second = (each.facts[image] for image in row["images"])
            assert row["label"] == str(world_truth.statement_is_true(first, second, row["sentence"])), row
            for where in (0, 1):
                value = world_truth.value_for(each.facts[row["images"][where]], row["sentence"])
                by_sentence[(start, where, row["label"])].append(str(value))
        assert len({image for row in group for image in row["images"]}) == 8
    for start in range(0, len(rows), 4):
        sentence = rows[start]["sentence"]
        silent = {"the left": [1], "the righ": [0], "both ima": [], "at least": []}.get(sentence[:8], [0, 1])
        for where in (0, 1):
            true, false = (sorted(by_sentence[(start, where, label)]) for label in ("True", "False"))
            assert len(true) == len(false) == 2 and len({*true, *false}) == 2, sentence
            assert (true == false) == (where in silent), sentence


@pytest.mark.parametrize("split", SPLITS)
def test_hypotheses_are_labelled_right(each: Written, split: str) -> None:
    """By the truth in every scene that the picture may show; each picture has each label once."""
    labels = defaultdict(list)
    for row in each.rows(f"ve_{split}"):
        assert row["label"] == world_truth.entailment(each.facts[row["image"]], row["sentence"]), row
        labels[row["image"]].append(row["label"])
    assert all(sorted(found) == ["contradiction", "entailment", "neutral"] for found in labels.values())


@pytest.mark.parametrize("split", SPLITS)
def test_an_expression_fits_one_thing(each: Written, split: str) -> None:
    """And its box is that thing's, and among the proposals."""
    proposals = each.rows("dets")
    for row in each.rows(f"grounding_{split}"):
        assert world_truth.the(each.facts[row["image"]], row["text"])["box"] == row["box"], row
        assert row["box"] in proposals[row["image_id"]]


@pytest.mark.parametrize("split", HELD_OUT)
def test_matching_pairs_are_balanced_and_right(each: Written, split: str) -> None:
    """Each caption once with its picture and once with one it is false of."""
    rows = each.rows(f"itm_{split}")
    for row in rows:
        assert row["label"] == str(world_truth.caption_is_true(each.facts[row["image"]], row["caption"], SIDE)), row
    assert Counter(row["label"] for row in rows) == {"True": len(rows) // 2, "False": len(rows) // 2}
    captions = {label: sorted(row["caption"] for row in rows if row["label"] == label) for label in ("True", "False")}
    assert captions["True"] == captions["False"]


def test_pixels_show_what_the_truth_claims(each: Written) -> None:
    """In each box the commonest pixel far from the background has the thing's colour, and no row of a box is empty."""
    images = zipfile.ZipFile(each.out / "images.zip") if (each.out / "images.zip").exists() else None
    for name, facts in list(each.facts.items())[::7]:
        data = images.read(name) if images else (each.out / "images" / name).read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        assert pixels.shape == (SIDE, SIDE, 3)
        background = Counter(map(tuple, pixels.reshape(-1, 3))).most_common(1)[0][0]
        drawn = abs(pixels - background).sum(axis=2) > 0
        left = drawn.copy()
        for thing in facts:
            x, y, w, h = thing["box"]
            inside = [tuple(p) for p in pixels[y : y + h, x : x + w].reshape(-1, 3) if abs(p - background).sum() > 100]
            colour = Counter(inside).most_common(1)[0][0]
            if thing["color"] is not None:
                near = min(
                    PALETTE, key=lambda name: sum((a - b) ** 2 for a, b in zip(PALETTE[name], colour, strict=True))
                )
                assert near == thing["color"], (name, thing, colour)
            else:
                assert max(colour) - min(colour) <= 12  # paper and pencil
            rows, columns = drawn[y : y + h, x : x + w].any(axis=1), drawn[y : y + h, x : x + w].any(axis=0)
            assert rows.all() and columns.all(), (name, thing)
            left[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2] = False  # tips, covered less than half
        assert not left.any(), name


def test_no_scene_is_twice(each: Written) -> None:
    """In all splits, by what a scene shows: the same things of the same sizes in the same cells."""
    shown = Counter(
        tuple(sorted((str(t["color"]), str(t["shape"]), t["size"], world_truth.place(t, SIDE)) for t in facts))
        for facts in each.facts.values()
    )
    assert max(shown.values()) == 1
    assert len(shown) == sum(len(each.rows(f"retrieval_{split}")) for split in HELD_OUT) * 2 + 2 * len(
        each.rows("pretrain_train")
    )


def test_held_out_pairs_are_in_test_new_alone(each: Written) -> None:
    """Eight pairs that no other split shows or names; each scene of test_new shows one."""
    shown = defaultdict(list)
    for image, facts in each.facts.items():
        pairs = {(thing["color"], thing["shape"]) for thing in facts if thing["color"] and thing["shape"]}
        shown[image.partition("/")[0].removesuffix("_veiled")].append(pairs)
    everything = {(colour, shape) for colour in COLOURS for shape in SHAPES}
    line = next(line for line in each.readme.splitlines() if line.count(", ") == 7 and "|" not in line)
    held_out = {tuple(pair.split()) for pair in line.split(", ")}
    assert held_out <= everything and len({c for c, _ in held_out}) == len({s for _, s in held_out}) == 8
    assert set().union(*shown["train"]) == everything - held_out
    for split in ("train", "val", "test"):
        assert not held_out & set().union(*shown[split])
        assert not held_out & world_truth.pairs_named(list(each.texts(split)))
    assert all(held_out & pairs for pairs in shown["test_new"])
    assert held_out <= world_truth.pairs_named(list(each.texts("test_new")))


def test_guessing_scores_no_more_than_stated(world: Written) -> None:
    """The limits of the tasks, counted here, and the datasheet's figures."""
    stated = {
        (task, way): values
        for task, way, *values in (
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in world.readme.partition("## Chance")[2].splitlines()
            if re.match(r"\| \w", line) and "| val |" not in line
        )
    }
    for index, split in enumerate(HELD_OUT):
        answers = Counter(row["answer"][0] for row in world.rows(f"vqa_{split}"))
        most = 100 * max(answers.values()) / answers.total()
        assert answers["yes"] == answers["no"] and most <= 30
        assert stated["VQA", "most frequent answer"][index] == f"{most:.1f}"
        boxes = [row["box"] for row in world.rows(f"grounding_{split}")]
        share = 100 * sum(w * h for _, _, w, h in boxes) / (len(boxes) * SIDE * SIDE)
        assert share <= 15 and stated["pointing game", "random place"][index] == f"{share:.1f}"
        for task, way, percent in (
            ("retrieval", "R@1 of a random order", 100 / 120),
            ("matching", "most frequent label", 50.0),
            ("NLVR2", "most frequent label", 50),
            ("entailment", "most frequent label", 100 / 3),
            ("pointing game", "random thing", 50),
        ):
            assert stated[task, way][index] == f"{percent:.1f}"
    for split in ("val", "test"):
        for task, limit in (("ve", 45), ("nlvr", 50)):  # of few rows: chance and three standard errors
            assert text_alone(world.rows(f"{task}_train"), world.rows(f"{task}_{split}")) <= limit


def text_alone(train: list[dict[str, str]], test: list[dict[str, str]]) -> float:
    """Percent of a Naive Bayes classifier of words: what they give away of the label, word by word."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        counts[row["label"]].update(set(row["sentence"].split()))
    words = set().union(*counts.values())
    score = {
        label: {word: np.log((seen[word] + 1) / (len(train) / len(counts) + 2)) for word in words}
        for label, seen in counts.items()
    }
    right = 0.0
    for row in test:
        of_label = {
            label: round(sum(known[word] for word in set(row["sentence"].split()) & words), 9)
            for label, known in score.items()
        }
        best = [label for label, value in of_label.items() if value == max(of_label.values())]
        right += (row["label"] in best) / len(best)
    return 100 * right / len(test)


def test_noise_exchanges_a_share_of_training_captions(world: Written, hard: Written) -> None:
    """Whole lists between scenes, of the share that was asked for; evaluation has none."""
    for written, share in ((world, 0.0), (hard, 0.3)):
        own = defaultdict(list)
        for row in written.rows("retrieval_train"):
            own[row["image"]].append(row["caption"])
        rows = written.rows("pretrain_train")
        moved = [row for row in rows if row["caption"] != own[row["image"]]]
        assert len(moved) == round(share * len(rows))
        assert sorted(row["caption"] for row in rows) == sorted(own.values())


def test_every_word_is_one_piece(each: Written) -> None:
    """Of BERT's vocabulary, after cleaning."""
    tokenizer = AlbefTokenizer()
    words = {word for split in SPLITS for text in each.texts(split) for word in clean_caption(text).split()}
    assert {word for word in words if len(tokenizer.tokenize(word)) != 1} == set()
    assert {word for answer in each.rows("answer_list") for word in answer.split()} <= set(tokenizer._pieces)


def test_every_question_and_expression_has_a_number_of_its_own(each: Written) -> None:
    """Over all splits."""
    for task, key in (("vqa", "question_id"), ("grounding", "ref_id")):
        numbers = [row[key] for split in SPLITS for row in each.rows(f"{task}_{split}")]
        assert len(numbers) == len(set(numbers)) > 0


def test_the_same_seed_gives_the_same_world(world: Written, tmp_path: Path) -> None:
    """The digest of pixels and annotations that another machine recorded; more training leaves the rest as it was."""
    digest = re.search(r"SHA-256 is `(\w+)`", world.readme)
    assert digest and digest[1] == RECORDED
    assert main([str(tmp_path / "more"), "--scenes", "170", "--held-out", "120"]) == 0
    more = Written(tmp_path / "more")
    for split in HELD_OUT:
        for task in ("retrieval", "itm", "vqa", "nlvr", "ve", "grounding"):
            assert more.rows(f"{task}_{split}") == world.rows(f"{task}_{split}")
    assert main([str(tmp_path / "other"), *SMALL, "--seed", "1"]) == 0
    assert not {str(f) for f in Written(tmp_path / "other").facts.values()} & {str(f) for f in world.facts.values()}


def test_lists_name_pictures_that_the_server_has(world: Written, hard: Written) -> None:
    """A URL a picture in each list; the demo's archive reads a world's zip."""
    images = {"train": "pretrain_train", **{split: f"retrieval_{split}" for split in HELD_OUT}}
    for split, name in images.items():
        urls = [f"http://127.0.0.1:8000/pictures/{row['image']}" for row in hard.rows(name)]
        listed = (hard.out / "lists" / f"{split}.jsonl").read_text().splitlines()
        assert [json.loads(line)["url"] for line in listed] == urls
        table = (hard.out / "lists" / f"{split}.tsv").read_text().splitlines()
        assert table[0] == "url\tcaption" and [line.split("\t")[0] for line in table[1:]] == urls
    archive = PictureArchive(world.out / "images.zip")
    assert all(name in archive for name in world.facts)
    assert archive.open(next(iter(world.facts))).size == (SIDE, SIDE)
    archive.close()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--scenes", "20"], "20 training scenes"),
        (["--side", "16"], "a side of 16 pixels"),
        (["--things", "3", "2"], "3 to 2 things"),
        (["--noise", "2"], "not between 0 and 1"),
        (["--relations", "beside"], "invalid choice"),
    ],
)
def test_settings_that_make_no_world_end_with_a_hint(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit 2, and nothing is written."""
    assert main([str(tmp_path / "out"), *flags]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert message in error and hint.startswith("hint: ")
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command writes new folders only."""
    (tmp_path / "mine").write_text("mine")
    assert main([str(tmp_path), *SMALL]) == 2
    assert "exists" in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["mine"]
