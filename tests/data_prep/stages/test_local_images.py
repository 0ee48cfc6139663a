"""A list cannot make `pack` read what lies outside the folders it was given."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.stages.local_images import open_local_images
from samples.image_roots import ImageRoots, NotRead
from tests.support.data_prep_runs import failures, samples
from tests.support.hostile_images import jpeg


@pytest.fixture
def local(tmp_path: Path) -> ImageRoots:
    """`images` with a picture, a folder and two links; a secret beside it, and one where a link leads."""
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere" / "pictures"
    (images / "sub").mkdir(parents=True)
    elsewhere.mkdir(parents=True)
    for path in (images / "a.jpg", elsewhere / "b.jpg"):
        path.write_bytes(jpeg())
    for path in (tmp_path / "secret.jpg", elsewhere.parent / "secret.jpg", tmp_path / "images2.jpg"):
        path.write_bytes(b"secret")
    (images / "linked").symlink_to(elsewhere)
    return open_local_images([str(images)])


def reason(local: ImageRoots, name: str) -> str:
    with pytest.raises(NotRead) as error:
        local.read(name, 1_000_000)
    return str(error.value).partition(":")[0]


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.jpg", "sub/../../secret.jpg", "./../secret.jpg", "../images2.jpg", "sub/../../../../etc/passwd"),
        *("/etc/passwd", "//etc/passwd", "/proc/self/environ", "..", ".", "", "linked/../../secret.jpg"),
    ],
)
def test_a_path_that_leads_out_is_refused(local: ImageRoots, name: str) -> None:
    assert reason(local, name) == "outside_images" and not local.has(name)


def test_a_path_through_a_link_and_back_does_not_come_out_beside_it(local: ImageRoots) -> None:
    """`linked/../secret.jpg` is `secret.jpg` in the folder, not what lies beside the link's target."""
    assert reason(local, "linked/../secret.jpg") == "missing_file"
    assert local.read("linked/../a.jpg", 1_000_000) == jpeg()


def test_paths_that_stay_inside_are_read(local: ImageRoots, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Roundabout, absolute, through a link of the folder's owner, and from a folder given relatively or by a link."""
    for name in ("a.jpg", "./a.jpg", "sub/../a.jpg", "linked/b.jpg", str(tmp_path / "images" / "a.jpg")):
        assert local.read(name, 1_000_000) == jpeg() and local.has(name), name
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alias").symlink_to(tmp_path / "images")
    for root in ("images", "./elsewhere/../images", "alias"):
        named = open_local_images([root])
        assert named.read("a.jpg", 1_000_000) == named.read(str(tmp_path / "images" / "a.jpg"), 1_000_000) == jpeg()


def test_a_path_outside_one_folder_may_lie_in_another(local: ImageRoots, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.writestr("c.jpg", jpeg())
    both = open_local_images([str(tmp_path / "images"), str(tmp_path / "elsewhere"), str(tmp_path / "more.zip")])
    assert both.read(str(tmp_path / "elsewhere" / "pictures" / "b.jpg"), 1_000_000) == jpeg()
    assert both.read("c.jpg", 1_000_000) == jpeg()
    assert reason(both, "../secret.jpg") == "missing_file"


def test_such_a_row_is_a_counted_failure(local: ImageRoots, tmp_path: Path) -> None:
    entries = [{"image": name, "caption": "x"} for name in ("a.jpg", "../secret.jpg", "/etc/passwd", "b\0.jpg")]
    (tmp_path / "list.json").write_text(json.dumps(entries))
    flags = ("--annotations", tmp_path / "list.json", "--images", tmp_path / "images", "--out", tmp_path / "out")
    assert main(["pack", *map(str, flags), "--processes", "1", "--min-yield", "0"]) == 0
    assert list(samples(tmp_path / "out")) == [0]
    assert failures(tmp_path / "out") == {1: "outside_images", 2: "outside_images", 3: "bad_row"}
