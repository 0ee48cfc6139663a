"""Writing, reading and verifying shards: what is written reads back, and all that is damaged is named."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.cli import main
from data_prep.errors import FolderError, InputError, UnfinishedError
from data_prep.lists.row_list import ListedImage
from data_prep.output.job import Folder, ImageSettings, Job, check_same_job, write_job
from data_prep.report.sample_stats import sample_stats
from data_prep.shards.manifest import read_manifest
from data_prep.shards.reader import TarUnread, read_samples
from data_prep.shards.writer import FetchResult, read_record, write_shard
from data_prep.stages.verify import ShardTask, Verification, check_shard, verify_folder
from samples.tar import TarDamage
from tests.support.hostile_images import halves, jpeg, rotated_jpeg, saved
from tests.support.raw_tar import base256, with_checksum
from tests.support.unprivileged import as_ordinary_user

SHARDS, ROWS = 3, 4
JOB = Job(
    kind="pack",
    source="made",
    inputs_sha256="0" * 64,
    shard_size=ROWS,
    images=ImageSettings(image_size=64),
    num_rows=SHARDS * ROWS,
)


def write(folder: Folder, shard: int, order: list[int]) -> None:
    """Shard `shard`, answered in `order`; row 1 of the shard fails."""
    rows = {shard * ROWS + i: ListedImage(f"http://a/{i}.jpg", [f"picture {i}"]) for i in range(ROWS)}
    results = [
        FetchResult(shard * ROWS + i, None, "http_404: Not Found")
        if i == 1
        else FetchResult(shard * ROWS + i, jpeg(halves(90 + i, 70, left=(40 * i, 0, 0))), None)
        for i in order
    ]
    write_shard(folder, JOB, shard, rows, results, {"command": "test"})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Folder(tmp_path_factory.mktemp("whole"))
    for path in (folder.shards, folder.failures, folder.work):
        path.mkdir()
    for shard in range(SHARDS):
        write(folder, shard, [2, 0, 3, 1])
    write_job(folder, JOB)
    return folder.root


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "copy")


def verify(root: Path, *, keep_going: bool = False, fraction: float = 1.0) -> Verification:
    with ThreadPoolExecutor(1) as pool:
        return verify_folder(root, pool, 1, keep_going=keep_going, fraction=fraction)


def members(tar: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(tar) as file:
        return [(member.name, file.extractfile(member).read()) for member in file]  # type: ignore[union-attr]


def rewrite(tar: Path, content: list[tuple[str, bytes]]) -> None:
    """Put other members into a shard and make its record agree with the bytes: only the content can show it."""
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as file:
        for name, data in content:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    record = json.loads(tar.with_suffix(".json").read_text())
    record["bytes"], record["sha256"] = tar.stat().st_size, hashlib.sha256(tar.read_bytes()).hexdigest()
    tar.with_suffix(".json").write_text(json.dumps(record))


def test_a_shard_is_the_same_bytes_for_any_order_of_results(whole: Path, tmp_path: Path) -> None:
    """Sorted by key, no times and no owners: a shard fetched twice has one hash."""
    folder = Folder(tmp_path)
    for path in (folder.shards, folder.failures, folder.work):
        path.mkdir()
    write(folder, 0, [0, 1, 2, 3])
    assert (folder.shards / "made-00000.tar").read_bytes() == (whole / "shards" / "made-00000.tar").read_bytes()


def test_members_are_as_the_contract_says(whole: Path) -> None:
    """KEY.jpg then KEY.json, sorted; the JSON has exactly the contract's fields."""
    content = members(whole / "shards" / "made-00000.tar")
    keys = ["made-000000000", "made-000000002", "made-000000003"]
    assert [name for name, _ in content] == [f"{key}.{kind}" for key in keys for kind in ("jpg", "json")]
    assert json.loads(content[1][1]) == {
        "key": keys[0],
        "captions": ["picture 0"],
        "url": "http://a/0.jpg",
        "source": "made",
        "original_width": 90,
        "original_height": 70,
        "width": 82,
        "height": 64,
        "sha256": hashlib.sha256(content[0][1]).hexdigest(),
    }


def test_an_id_and_a_licence_are_in_the_record_where_the_list_has_them(tmp_path: Path) -> None:
    """And only there; verify takes either kind of record."""
    folder = Folder(tmp_path)
    for path in (folder.shards, folder.failures, folder.work):
        path.mkdir()
    job = replace(JOB, shard_size=2, num_rows=2)
    rows = {0: ListedImage("a.jpg", ["a"], None, "42", "CC BY 2.0"), 1: ListedImage("b.jpg", ["b"])}
    write_shard(folder, job, 0, rows, [FetchResult(row, jpeg(), None) for row in rows], {})
    with_notes, without = (
        json.loads(data) for name, data in members(folder.shards / "made-00000.tar") if "json" in name
    )
    assert (with_notes["id"], with_notes["licence"]) == ("42", "CC BY 2.0")
    assert set(with_notes) - set(without) == {"id", "licence"}
    write_job(folder, job)
    assert verify(tmp_path).problems == []


def test_manifest_offsets_cut_out_whole_samples(whole: Path) -> None:
    """Bytes [offset, offset + length) are a tar of that one sample, as tarfile sees it."""
    result = verify(whole)
    assert result.problems == [] and result.num_decoded == result.num_samples == 9
    rows = read_manifest(whole / "manifest.parquet")
    assert [row["path"] for row in rows] == [f"shards/made-0000{i}.tar" for i in range(SHARDS)]
    for row in rows:
        tar = (whole / row["path"]).read_bytes()
        assert (row["bytes"], row["num_samples"], row["listed"], row["yield"]) == (len(tar), 3, 4, 0.75)
        assert row["failures"] == [{"reason": "http_404", "count": 1}]
        for key, offset, length in zip(row["keys"], row["offsets"], row["lengths"], strict=True):
            piece = io.BytesIO(tar[offset : offset + length] + bytes(1024))
            with tarfile.open(fileobj=piece) as file:
                assert file.getnames() == [f"{key}.jpg", f"{key}.json"]
                assert sum(512 + -(-member.size // 512) * 512 for member in file.getmembers()) == length


def _flip_in_image(tar: Path) -> None:
    content = members(tar)
    flipped = bytearray(content[2][1])
    flipped[len(flipped) // 2] ^= 0x40
    rewrite(tar, [*content[:2], (content[2][0], bytes(flipped)), *content[3:]])


def _edit_meta(**changes: object) -> Callable[[Path], None]:
    def edit(tar: Path) -> None:
        content = members(tar)
        meta = json.loads(content[1][1]) | changes
        meta = {name: value for name, value in meta.items() if value != "REMOVED"}
        rewrite(tar, [content[0], (content[1][0], json.dumps(meta).encode()), *content[2:]])

    return edit


def _another_image(data: bytes) -> Callable[[Path], None]:
    """Of the same size and with a right hash."""

    def edit(tar: Path) -> None:
        content = members(tar)
        meta = json.loads(content[1][1]) | {"sha256": hashlib.sha256(data).hexdigest()}
        rewrite(tar, [(content[0][0], data), (content[1][0], json.dumps(meta).encode()), *content[2:]])

    return edit


_not_an_image = _another_image(b"\xff\xd8\xff no")


FIRST, SECOND = "made-000000004", "made-000000006"
DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a flipped byte in an image": (_flip_in_image, SECOND, "image bytes differ from their sha256"),
    "a flipped byte anywhere": (
        lambda tar: tar.write_bytes(tar.read_bytes()[:-1] + b"x"),
        f"{'made-000000007'}.json",
        "bytes after the tar's end mark",
    ),
    "a tar cut in the middle": (
        lambda tar: tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2]),
        "",
        "truncated tar",
    ),
    "a tar cut between members": (lambda tar: tar.write_bytes(tar.read_bytes()[:-10240]), "", "truncated tar"),
    "an empty tar": (lambda tar: tar.write_bytes(b""), "", "truncated tar: 0 bytes and no end mark"),
    "a missing json": (
        lambda tar: rewrite(tar, members(tar)[:1] + members(tar)[2:]),
        f"{FIRST}.jpg",
        "image without its .json",
    ),
    "a missing image": (lambda tar: rewrite(tar, members(tar)[1:]), f"{FIRST}.json", ".json without its image"),
    "a last image alone": (
        lambda tar: rewrite(tar, members(tar)[:-1]),
        "made-000000007.jpg",
        "image without its .json",
    ),
    "a duplicate key": (lambda tar: rewrite(tar, members(tar)[:2] * 2 + members(tar)[4:]), FIRST, "duplicate key"),
    "a missing sample": (lambda tar: rewrite(tar, members(tar)[:-2]), "", "holds 2 samples, 3 by its record"),
    "a foreign member": (
        lambda tar: rewrite(tar, [*members(tar), ("../../etc/x.jpg", b"x")]),
        "../../etc/x.jpg",
        "foreign member",
    ),
    "bytes that are no image": (_not_an_image, FIRST, "image cannot be decoded"),
    "a PNG": (_another_image(saved(halves(82, 64), "PNG")), FIRST, "image is PNG, not JPEG"),
    "a gray JPEG": (_another_image(jpeg(halves(82, 64, left=1, right=2, mode="L"))), FIRST, "image is L, not RGB"),
    "a JPEG on its side": (_another_image(rotated_jpeg(3, 82, 64)), FIRST, "image is not upright"),
    "a field that is gone": (_edit_meta(captions="REMOVED"), FIRST, "JSON has no captions"),
    "a field of another kind": (_edit_meta(width="82"), FIRST, "JSON field width is '82', not int"),
    "an id that is no text": (_edit_meta(id=7), FIRST, "JSON field id is 7, not str"),
    "another image's size": (_edit_meta(width=83), FIRST, "image is 82 x 64, 83 x 64 by its JSON"),
    "another sample's json": (_edit_meta(key=SECOND), FIRST, f"JSON is of key {SECOND}"),
    "captions of punctuation": (
        _edit_meta(captions=["...", "?!"]),
        FIRST,
        "no usable caption: cleaning leaves nothing",
    ),
    "an image beyond all bounds": (_edit_meta(width=10**5, height=10**5), FIRST, "more than 178956970 pixels"),
    "a size of nothing": (_edit_meta(original_height=0), FIRST, "JSON field original_height is 0"),
    "an empty caption": (_edit_meta(captions=["a", " "]), FIRST, "an empty caption, or none"),
    "no record": (lambda tar: tar.with_suffix(".json").unlink(), "", "no record made-00001.json beside it"),
    "a broken record": (lambda tar: tar.with_suffix(".json").write_text("{"), "", "is not a shard record"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_with_its_shard_and_sample(copy: Path, name: str) -> None:
    """One damaged shard of three: named, no manifest; the other two are fine."""
    damage, sample, reason = DAMAGE[name]
    damage(copy / "shards" / "made-00001.tar")
    result = verify(copy)
    assert result.manifest is None and not (copy / "manifest.parquet").exists()
    assert {problem.shard for problem in result.problems} == {"made-00001.tar"}
    assert any(problem.sample.startswith(sample) and reason in problem.reason for problem in result.problems), (
        result.problems
    )


def test_a_manifest_that_is_no_longer_true_is_withdrawn(copy: Path) -> None:
    """Training reads what the manifest names; a shard found bad must not stay in it."""
    assert verify(copy).manifest == copy / "manifest.parquet"
    _flip_in_image(copy / "shards" / "made-00001.tar")
    result = verify(copy)
    assert result.withdrawn == copy / "manifest.parquet.withdrawn" and result.withdrawn.exists()
    assert not (copy / "manifest.parquet").exists()


def test_keep_going_writes_the_good_shards_only(copy: Path) -> None:
    _flip_in_image(copy / "shards" / "made-00001.tar")
    result = verify(copy, keep_going=True)
    assert f"made-00001.tar: {SECOND}: image bytes differ from their sha256" in map(str, result.problems)
    rows = read_manifest(copy / "manifest.parquet")
    assert [row["path"] for row in rows] == ["shards/made-00000.tar", "shards/made-00002.tar"]


def test_a_key_in_two_shards_is_found_and_left_out_once(copy: Path) -> None:
    """Each shard is fine by itself; together they hold a sample twice."""
    rewrite(copy / "shards" / "made-00002.tar", members(copy / "shards" / "made-00001.tar"))
    result = verify(copy, keep_going=True)
    assert {(problem.shard, problem.reason) for problem in result.problems} == {
        ("made-00002.tar", "duplicate key: also in made-00001.tar")
    }
    assert [row["path"][-6:] for row in read_manifest(copy / "manifest.parquet")] == ["00.tar", "01.tar"]


def test_a_shard_that_vanishes_while_keys_are_compared_is_named(copy: Path) -> None:
    """Gone after the check that found it whole, before its keys are read again: an error, and no new manifest."""
    before = (copy / "manifest.parquet").read_bytes()
    last = copy / "shards" / "made-00002.tar"
    rewrite(last, members(copy / "shards" / "made-00001.tar"))
    with ThreadPoolExecutor(1) as pool, pytest.raises(UnfinishedError, match=r"made-00002\.tar changed while"):
        verify_folder(copy, pool, 1, on_shard=lambda done, total: last.unlink() if done == total else None)
    assert (copy / "manifest.parquet").read_bytes() == before


def test_files_that_do_not_belong_are_named(copy: Path) -> None:
    shards = copy / "shards"
    (shards / "notes.txt").write_text("x")
    (shards / ".made-00003.tar.77.tmp").write_bytes(b"half")
    shutil.copy(shards / "made-00000.tar", shards / "other-00000.tar")
    shutil.copy(shards / "made-00000.json", shards / "stray.json")
    (shards / "made-00002.tar").unlink()
    result = verify(copy)
    assert {(problem.shard, problem.reason.partition(":")[0]) for problem in result.problems} == {
        ("other-00000.tar", "foreign shard"),
        ("made-00002.json", "record without its tar"),
        ("made-00002.tar", "missing"),
    }
    assert result.strays == [
        "shards/.made-00003.tar.77.tmp: left by an interrupted write",
        "shards/notes.txt: no shard, and not written by data_prep",
        "shards/stray.json: no shard, and not written by data_prep",
    ]


STRAYS = [".DS_Store", ".nfs0000000001", "Thumbs.db", "desktop.ini", "._made-00000.tar", "README", "made-00000.tar.md5"]


def test_files_of_the_system_and_of_persons_leave_the_manifest_alone(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are named, and all is well: exit 0, the same manifest as without them. Folders, pipes and dead links too."""
    assert main(["verify", str(copy), "--processes", "1"]) == 0
    manifest = read_manifest(copy / "manifest.parquet")
    for name in STRAYS:
        (copy / "shards" / name).write_text("x")
    (copy / "shards" / "lost+found").mkdir()
    os.mkfifo(copy / "shards" / "pipe")
    (copy / "shards" / "link").symlink_to("nowhere")
    assert main(["verify", str(copy), "--processes", "1"]) == 0
    printed = capsys.readouterr().out
    assert all(f"note: shards/{name}: no shard" in printed for name in (*STRAYS, "lost+found", "pipe", "link"))
    assert read_manifest(copy / "manifest.parquet") == manifest


def test_a_retrys_round_is_read_by_the_same_rules(copy: Path) -> None:
    """The failed rows of three shards came in a round: strays are notes there, a foreign tar and a loss problems."""
    first, round_one = Folder(copy), Folder(copy / "retry-01")
    for path in (round_one.shards, round_one.failures, round_one.work):
        path.mkdir(parents=True)
    job = replace(JOB, kind="retry", round=1, num_rows=SHARDS)
    rows = {
        shard * ROWS + 1: ListedImage("http://a/1.jpg", ["again"], row=shard * ROWS + 1, supersedes="http_404")
        for shard in range(SHARDS)
    }
    write_shard(round_one, job, 0, rows, [FetchResult(row, jpeg(), None) for row in rows], {})
    write_job(round_one, job)
    (round_one.shards / ".DS_Store").write_bytes(b"x")
    shutil.copy(first.shards / "made-00000.tar", round_one.shards)
    result = verify(copy)
    assert result.strays == ["retry-01/shards/.DS_Store: no shard, and not written by data_prep"]
    assert list(map(str, result.problems)) == ["retry-01/shards/made-00000.tar: foreign shard: not of this job"]
    assert sum(row["num_samples"] for row in read_manifest(copy / "manifest.parquet")) == SHARDS * ROWS
    (round_one.shards / "made-retry01-00000.tar").unlink()
    result = verify(copy)
    assert "made-retry01-00000.tar: missing: run `data_prep retry` again" in map(str, result.problems)
    assert result.withdrawn is not None


def test_a_foreign_shard_is_loud_and_leaves_the_manifest_alone(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 1, since somebody may take it for data; what the manifest names is whole, so it is written."""
    shutil.copy(copy / "shards" / "made-00000.tar", copy / "shards" / "backup.tar")
    assert main(["verify", str(copy), "--processes", "1"]) == 1
    assert "wrong: backup.tar: foreign shard: not of this job" in capsys.readouterr().out
    assert [row["path"] for row in read_manifest(copy / "manifest.parquet")] == [
        f"shards/made-0000{index}.tar" for index in range(SHARDS)
    ]
    (copy / "shards" / "made-00001.tar").unlink()
    assert verify(copy).withdrawn, "a shard that it names is gone"


def test_a_manifest_of_the_good_shards_stays_while_what_it_names_is_whole(copy: Path) -> None:
    """Written with --keep-going beside a broken shard; the broken one, still there, does not withdraw it."""
    _flip_in_image(copy / "shards" / "made-00001.tar")
    verify(copy, keep_going=True)
    result = verify(copy)
    assert result.problems and (result.stands, result.withdrawn) == (copy / "manifest.parquet", None)
    _flip_in_image(copy / "shards" / "made-00002.tar")
    assert verify(copy).withdrawn


def test_a_systems_file_does_not_make_a_new_folder_another_jobs(tmp_path: Path) -> None:
    """Shards without job.json are somebody's; a .DS_Store is nobody's."""
    folder = Folder(tmp_path)
    folder.shards.mkdir()
    (folder.shards / ".DS_Store").write_bytes(b"x")
    assert check_same_job(folder, JOB) is None
    (folder.shards / "made-00000.tar").write_bytes(b"x")
    with pytest.raises(FolderError, match="shards exists but"):
        check_same_job(folder, JOB)


def test_without_any_shard_nothing_is_published(tmp_path: Path) -> None:
    """No job, no shard, at most something foreign: a manifest of nothing would be success that is none."""
    (tmp_path / "shards").mkdir()
    for expected in (1, 2):
        result = verify(tmp_path, keep_going=True)
        assert len(result.problems) == expected and result.manifest is None
        (tmp_path / "shards" / "a.tar").write_bytes(b"")


def _a_folder(tar: Path) -> None:
    tar.unlink()
    tar.mkdir()


def _a_pipe(tar: Path) -> None:
    tar.unlink()
    os.mkfifo(tar)


def _a_link(target: str) -> Callable[[Path], None]:
    def link(tar: Path) -> None:
        tar.unlink()
        tar.symlink_to(target)

    return link


@pytest.mark.parametrize(
    ("what", "reason", "manifest_stays"),
    [
        (_a_folder, "is a folder", False),
        (_a_pipe, "is no regular file", False),
        (_a_link("nowhere"), "No such file", False),
        (lambda file: _a_link(file.name)(file), "symbolic links", False),
        (_a_link("/proc/self/mem"), "Input/output error", True),  # reading at 0 is EIO, as of a failing disk
    ],
)
@pytest.mark.parametrize("of", ["tar", "json"])
def test_what_is_no_readable_file_is_named_and_waited_for_by_nobody(
    copy: Path, of: str, what: Callable[[Path], None], reason: str, manifest_stays: bool
) -> None:
    """Instead of a tar or of its record. A file that cannot be read now does not withdraw the manifest."""
    verify(copy)
    what(copy / "shards" / f"made-00001.{of}")
    result = verify(copy)
    (problem,) = result.problems
    assert problem.shard == "made-00001.tar" and ("cannot be read" in problem.reason or "no record" in problem.reason)
    assert reason in problem.reason or (of, reason) == ("json", "No such file")
    assert (copy / "manifest.parquet").exists() == manifest_stays == (result.stands is not None)


def test_a_missing_permission_is_no_damage(copy: Path) -> None:
    """What the shard holds is not known; the manifest that names it is not withdrawn for it (the test above)."""
    tar = copy / "shards" / "made-00001.tar"
    tar.chmod(0)
    with as_ordinary_user(), pytest.raises(TarUnread, match="cannot be read: Permission denied"):
        list(read_samples(tar))


def test_a_sample_of_the_images_is_decoded_and_all_are_hashed(copy: Path) -> None:
    """With --sample 0 an undecodable image with a right hash passes, and a wrong hash does not."""
    _not_an_image(copy / "shards" / "made-00001.tar")
    result = verify(copy, fraction=0.0)
    assert (result.problems, result.num_decoded, result.num_samples) == ([], 0, 9)
    _flip_in_image(copy / "shards" / "made-00002.tar")
    assert "differ from their sha256" in str(verify(copy, fraction=0.0).problems)


@pytest.mark.parametrize("name", ["broken header", "ends inside", "cannot be read", "JSON has no key"])
def test_a_report_of_a_shard_that_changed_names_it(copy: Path, name: str) -> None:
    """The report believes the manifest's offsets; what it then finds there is read as strictly as elsewhere."""
    verify(copy)
    tar = copy / "shards" / "made-00001.tar"
    data = tar.read_bytes()
    changes = {
        "broken header": b"x" + data[1:],
        "ends inside": with_checksum(data[:124] + base256(1 << 80) + data[136:512]) + data[512:],
        "JSON has no key": data.replace(b'"key"', b'"kez"'),
    }
    if name == "cannot be read":
        tar.unlink()
    else:
        tar.write_bytes(changes[name])
    with pytest.raises(InputError, match=rf"made-00001\.tar: .*{name}"):
        sample_stats(copy / "manifest.parquet", ["made"] * SHARDS, SHARDS, 0)


def test_the_same_seed_decodes_the_same_sample(whole: Path) -> None:
    counts = {
        seed: [check_shard(ShardTask(whole, "made-00000.tar", 4, 0.5, seed)).num_decoded for _ in range(2)]
        for seed in range(8)
    }
    assert all(first == second for first, second in counts.values())
    assert len({first for first, _ in counts.values()}) > 1


def test_a_shard_that_lost_an_answer_is_not_written(tmp_path: Path) -> None:
    """img2dataset can lose a row and exit 0; a shard with a row too few must not come into being."""
    folder = Folder(tmp_path)
    for path in (folder.shards, folder.failures, folder.work):
        path.mkdir()
    with pytest.raises(ValueError, match="results for 4 rows"):
        write(folder, 0, [0, 1, 2])
    assert not list(folder.shards.iterdir())


def test_a_size_in_a_header_beyond_the_file_is_a_truncated_tar(tmp_path: Path) -> None:
    """A damaged header that announces 8 GiB must not be allocated."""
    member = tarfile.TarInfo("a.jpg")
    member.size = 8 * 2**30 - 1
    path = tmp_path / "x.tar"
    path.write_bytes(member.tobuf(tarfile.USTAR_FORMAT) + bytes(10_240))
    with pytest.raises(TarDamage, match=r"ends inside a\.jpg"):
        list(read_samples(path))


def test_records_of_another_version_are_refused(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "made-00000.json"
    path.write_text((whole / "shards" / "made-00000.json").read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ValueError, match="another version"):
        read_record(path)


def test_the_writer_stores_nothing_that_verify_refuses(tmp_path: Path) -> None:
    """Captions that cleaning empties, as an older list may hold them, and more text than a record takes: counted."""
    folder = Folder(tmp_path)
    for path in (folder.shards, folder.failures, folder.work):
        path.mkdir()
    job = replace(JOB, shard_size=3, num_rows=3)
    captions = [["...", "?!"], ["a", "b" * (1 << 20)], ["a", "?!"]]
    rows = {row: ListedImage(f"{row}.jpg", texts) for row, texts in enumerate(captions)}
    record = write_shard(folder, job, 0, rows, [FetchResult(row, jpeg(), None) for row in rows], {})
    assert (record.kept, record.failed) == (1, {"empty_caption": 1, "sample_too_large": 1})
    write_job(folder, job)
    assert verify(tmp_path).problems == []


@pytest.mark.parametrize(
    "text",
    ["[" * 10**5, "[]", '{"version": 1}', "\x00", '{"version": 1, "kept": %s}' % ("9" * 5000)],
    ids=["deep", "list", "short", "zero", "digits"],
)
def test_a_record_that_is_none_is_a_value_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "made-00000.json").write_text(text)
    with pytest.raises(ValueError, match=r"made-00000\.json is not a shard record"):
        read_record(tmp_path / "made-00000.json")


def test_a_record_with_a_field_of_another_type_is_a_value_error(whole: Path, tmp_path: Path) -> None:
    good = json.loads((whole / "shards" / "made-00000.json").read_text())
    for name, value in (
        ("kept", "3"),
        ("bytes", -1),
        ("failed", {"x": None}),
        ("failed", []),
        ("sha256", 1),
        ("tools", 1),
    ):
        (tmp_path / "made-00000.json").write_text(json.dumps(good | {name: value}))
        with pytest.raises(ValueError, match="is not a shard record"):
            read_record(tmp_path / "made-00000.json")
