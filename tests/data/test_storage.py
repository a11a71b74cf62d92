"""A folder on any file system: created once, replaced whole, listed fresh."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from optinfer.data.storage import STATE, Folder, absolute
from optinfer.errors import StorageError
from tests.data import flaky_store
from tests.data.flaky_store import FlakyStore
from tests.system.test_home import full_disk


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(f"{request.getfixturevalue('bucket')}/out/" if request.param == "s3" else str(tmp_path / "out"))


def test_the_first_creator_wins(folder: Folder) -> None:
    assert folder.put_new("part", b"first")
    assert not folder.put_new("part", b"second")
    assert folder.read("part") == b"first"


def test_of_many_creators_at_once_exactly_one_wins(folder: Folder) -> None:
    start = threading.Barrier(8)

    def create(n: int) -> bool:
        start.wait()
        return folder.put_new("part", b"%d" % n)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(create, range(8)))
    assert won.count(True) == 1
    assert folder.read("part") == b"%d" % won.index(True)


def test_put_replaces(folder: Folder) -> None:
    folder.put("a/b.json", b"old")
    folder.put("a/b.json", b"new")
    assert folder.read("a/b.json") == b"new"


def test_an_empty_file_exists(folder: Folder) -> None:
    folder.put("_SUCCESS", b"")
    assert folder.read("_SUCCESS") == b""


def test_what_does_not_exist_reads_as_none(folder: Folder) -> None:
    assert folder.read("nothing") is None
    assert folder.names() == []


def test_names_lists_matching_files_of_one_level(folder: Folder) -> None:
    for name in ("part-1.parquet", "part-0.parquet", "_SUCCESS", "sub/part-2.parquet"):
        folder.put(name, b"x")
    assert folder.names(r"part-\d\.parquet") == ["part-0.parquet", "part-1.parquet"]
    assert folder.names(under="sub") == ["part-2.parquet"]


def test_a_listing_sees_what_another_process_just_wrote(folder: Folder) -> None:
    assert folder.names() == []
    Folder(folder.url).put_new("part", b"x")
    assert "part" in folder.names()


def test_delete_takes_files_and_folders_and_forgives_absence(folder: Folder) -> None:
    folder.put("a/b", b"x")
    folder.delete("a")
    folder.delete("a")
    assert folder.read("a/b") is None


def test_a_folder_travels_as_its_url(folder: Folder) -> None:
    folder.put("a", b"x")
    assert pickle.loads(pickle.dumps(folder)).read("a") == b"x"


def test_a_local_commit_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.put_new("part", b"x")
    folder.put_new("part", b"y")
    assert list((tmp_path / STATE / "staging").iterdir()) == []


def test_a_writer_that_dies_while_staging_creates_nothing(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with full_disk(), pytest.raises(StorageError, match=r"no room is left for .*File too large"):
        folder.put_new("part", b"x")
    assert folder.read("part") is None
    assert list((tmp_path / STATE / "staging").iterdir()) == []


def test_a_conditional_write_that_meets_a_conflict_is_tried_again(bucket: str, flaky: FlakyStore) -> None:
    folder = Folder(f"{bucket}/out")
    flaky.meets = lambda method, path, headers: method == "PUT"
    flaky.faults = [flaky_store.refusal(409, "ConditionalRequestConflict")]
    assert folder.put_new("part", b"x")
    assert not flaky.faults
    assert folder.read("part") == b"x"


def test_local_paths_mean_the_same_in_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("out") == absolute(f"file://{tmp_path}/out") == str(tmp_path / "out")
    assert absolute("s3://bucket/out") == "s3://bucket/out"
