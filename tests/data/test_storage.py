"""A folder on any file system: created once, replaced whole, listed fresh."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from optinfer.data.state import Attempts
from optinfer.data.storage import STATE, Folder, absolute
from optinfer.errors import StorageError
from optinfer.system.outages import WAITING, Waiting
from tests import refused_calls
from tests.conftest import REPO
from tests.data import flaky_store
from tests.data.flaky_store import Fault, FlakyStore
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


HURRY = Waiting(seconds=20, first_wait=0.001, longest_wait=0.01, first_seconds=0.2)


def writes(method: str, path: str, headers: flaky_store.Headers) -> bool:
    return method == "PUT"


def anything(method: str, path: str, headers: flaky_store.Headers) -> bool:
    return True


@pytest.fixture
def known(bucket: str, flaky: FlakyStore) -> Folder:
    """Return a folder of a store that has answered before."""
    folder = Folder(f"{bucket}/out", HURRY)
    assert folder.read("nothing") is None
    return folder


def test_conditional_writes_that_meet_conflicts_are_tried_again(known: Folder, flaky: FlakyStore) -> None:
    """More often than once in a while: many replicas begin at the same moment."""
    flaky.meets, flaky.faults = writes, [flaky_store.refusal(409, "ConditionalRequestConflict")] * 12
    assert known.put_new("part", b"x")
    assert not flaky.faults
    assert known.read("part") == b"x"


@pytest.mark.parametrize("lost", [flaky_store.done_and_lost, flaky_store.done_and_failed])
def test_a_write_of_which_the_answer_was_lost_is_our_own(known: Folder, flaky: FlakyStore, lost: Fault) -> None:
    flaky.meets, flaky.faults = writes, [lost]
    assert known.put_new("part", b"ours")
    assert not known.put_new("part", b"another's")
    flaky.faults = [lost]
    known.put("state", b"new")
    assert (known.read("part"), known.read("state")) == (b"ours", b"new")


def test_an_upload_in_pieces_of_which_the_last_answer_was_lost_is_our_own(known: Folder, flaky: FlakyStore) -> None:
    flaky.meets = lambda method, path, headers: method == "POST" and "uploadId=" in path
    flaky.faults = [flaky_store.done_and_lost]
    large = bytes(100 * 2**20)
    assert known.put_new("part", large)
    assert not flaky.faults
    assert next(known.entries()).size == len(large)


def test_a_bucket_that_is_not_there_is_said_at_once(known: Folder) -> None:
    with pytest.raises(StorageError, match=r"cannot use s3://nobodys/out: FileNotFoundError.*bucket does not exist"):
        Folder("s3://nobodys/out", Waiting(first_wait=60)).put("part", b"x")


@pytest.mark.parametrize("lost", [flaky_store.done_and_lost, flaky_store.done_and_failed])
def test_a_mark_of_which_the_answer_was_lost_is_no_sign_of_a_crash(
    known: Folder, flaky: FlakyStore, lost: Fault
) -> None:
    flaky.meets, flaky.faults = writes, [lost]
    attempts = Attempts(known.url)
    assert attempts.begin("part-000000.parquet", "here") is None
    assert Attempts(known.url).begin("part-000000.parquet", "here") == "here", "that one has begun it, and died"


OUTAGE = {
    "internal error": flaky_store.refusal(500, "InternalError"),
    "slow down": flaky_store.refusal(503, "SlowDown"),
    "reset": flaky_store.reset,
    "cut short": flaky_store.cut_short,
    "forbidden": flaky_store.refusal(403, "AccessDenied"),
    "damaged on its way": flaky_store.refusal(400, "BadDigest"),
    "flipped byte": flaky_store.flipped_byte_of_what_is_signed,
}


@pytest.mark.parametrize("fault", OUTAGE.values(), ids=OUTAGE)
def test_all_that_is_asked_of_a_store_waits_for_it(known: Folder, flaky: FlakyStore, fault: Fault) -> None:
    def met(work: Callable[[], object]) -> object:
        flaky.faults = [fault]
        return work()

    flaky.meets = anything
    assert met(lambda: known.put_new("part", b"x" * 100))
    assert met(lambda: known.read("part")) == b"x" * 100
    assert met(lambda: known.names()) == ["part"]
    met(lambda: known.put("other", b"y"))
    met(lambda: known.delete("part"))
    assert known.names() == ["other"]


def test_what_s3_did_not_remove_is_removed(known: Folder, flaky: FlakyStore) -> None:
    known.put("part", b"x")
    flaky.meets, flaky.faults = lambda method, path, headers: method == "POST", [flaky_store.not_removed]
    known.delete("part")
    assert known.read("part") is None


def test_keys_that_are_renewed_while_a_store_refuses_the_old_ones_are_read_again(
    bucket: str, flaky: FlakyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys(name: str) -> None:
        kept.write_text(f"[default]\naws_access_key_id = {name}\naws_secret_access_key = secret\n")

    kept = tmp_path / "credentials"
    keys("OLD")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(kept))
    folder = Folder(f"{bucket}/out", HURRY)
    folder.put("part", b"x")
    flaky.meets, flaky.forever = anything, flaky_store.wants_other_keys("NEW")
    keys("NEW")
    assert folder.read("part") == b"x"


def test_a_store_that_never_answered_is_not_waited_for(bucket: str, flaky: FlakyStore, free_port: int) -> None:
    flaky.meets, flaky.forever = anything, flaky_store.refusal(403, "InvalidAccessKeyId")
    with pytest.raises(StorageError, match=r"cannot use s3://.*PermissionError.*check the path"):
        Folder(f"{bucket}/out", Waiting(first_wait=60)).read("job.json")
    assert len(flaky.asked) == 1


def test_an_outage_that_lasts_is_one_error_that_says_how_long(known: Folder, flaky: FlakyStore) -> None:
    hasty = Folder(known.url, Waiting(seconds=0.1, first_wait=0.001, longest_wait=0.01))
    flaky.meets, flaky.forever = anything, flaky_store.reset
    with pytest.raises(StorageError, match=r"cannot use s3://.*tried for up to 0 s.*credentials and endpoint"):
        hasty.put("part", b"x")
    assert len(flaky.asked) > 3


def test_a_store_that_accepts_and_never_answers_is_given_up(known: Folder, flaky: FlakyStore) -> None:
    hasty = Folder(known.url, replace(WAITING, seconds=0.1, first_seconds=0.1, longest_try=0.5))
    flaky.meets, flaky.forever = anything, flaky_store.never
    for ask in (lambda: hasty.read("a"), lambda: hasty.put("a", b"2"), lambda: list(hasty.entries())):
        with pytest.raises(StorageError, match=r"TimeoutError: no answer within 0\.5 s"):
            ask()
    with pytest.raises(TimeoutError):
        hasty.look("a", lambda file: file.read())


def test_a_wait_is_said_once(known: Folder, flaky: FlakyStore, caplog: pytest.LogCaptureFixture) -> None:
    flaky.meets, flaky.faults = anything, [flaky_store.refusal(503, "SlowDown")] * 5
    known.put("part", b"x")
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert said[0].startswith(f"cannot use {known.url}: ClientError: ")
    assert said[0].endswith("; trying again for 20 s")


class TestWithoutHardLinks:
    """As exFAT, SMB and some of FUSE are: the kernel refuses the calls of a process of the test's own."""

    pytestmark = pytest.mark.skipif(not refused_calls.POSSIBLE, reason="no filter of system calls here")

    @staticmethod
    def told(calls: str, url: Path) -> str:
        script = (
            "import sys\nfrom tests import refused_calls\nfrom optinfer.data.storage import Folder\n"
            "refused_calls.refuse(getattr(refused_calls, sys.argv[1]))\nfolder = Folder(sys.argv[2])\n"
            "print(folder.put_new('part', b'first'), folder.put_new('part', b'second'), folder.read('part'))"
        )
        command = [sys.executable, "-c", script, calls, str(url)]
        ended = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120, check=False)
        return (ended.stdout + ended.stderr).strip()

    def test_a_file_is_created_once_all_the_same(self, tmp_path: Path) -> None:
        assert self.told("NO_LINKS", tmp_path / "out") == "True False b'first'"
        assert sorted(os.listdir(tmp_path / "out")) == [STATE, "part"]

    def test_a_file_system_that_cannot_do_it_at_all_is_refused_by_name(self, tmp_path: Path) -> None:
        said = self.told("NO_EXCLUSIVE_NAMES", tmp_path / "out")
        assert "has neither hard links nor a rename that replaces nothing" in said.splitlines()[-1]
        assert os.listdir(tmp_path / "out") == [STATE]


def test_local_paths_mean_the_same_in_any_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("out") == absolute(f"file://{tmp_path}/out") == str(tmp_path / "out")
    assert absolute("s3://bucket/out") == "s3://bucket/out"
