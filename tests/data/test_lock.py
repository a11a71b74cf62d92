"""One live run an output."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from optinfer.data.lease import Holder, described, holder
from optinfer.data.lock import RunLock, give_free_of_the_dead
from optinfer.data.storage import Folder
from optinfer.errors import OutputConflictError, QuarantineError, StorageError
from optinfer.system.outages import Waiting
from tests.conftest import wait_until
from tests.data import flaky_store
from tests.data.flaky_store import Fault, FlakyStore

LOCK, SECOND = "_optinfer/lock.json", "_optinfer/lease/00000002.json"


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(f"{request.getfixturevalue('bucket')}/out" if request.param == "s3" else str(tmp_path / "out"))


def record(**changes: Any) -> Holder:
    me = psutil.Process()
    mine = Holder(token="t", host=socket.gethostname(), pid=me.pid, started=me.create_time(), beat=0.0)
    return replace(mine, **changes)


def test_a_lock_is_gone_when_its_run_ends(folder: Folder) -> None:
    with RunLock(folder):
        held = holder(folder)
        assert held is not None
        assert held.pid == os.getpid()
    assert holder(folder) is None


def test_a_lock_is_gone_when_its_run_fails(folder: Folder) -> None:
    with pytest.raises(RuntimeError, match="boom"), RunLock(folder):
        raise RuntimeError("boom")
    assert holder(folder) is None


def test_a_finished_output_is_given_free_of_a_dead_run_and_of_no_live_one(folder: Folder) -> None:
    command = [sys.executable, "-m", "tests.data.holding", folder.url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        give_free_of_the_dead(folder)
        assert holder(folder) is not None, "it lives"
        other.kill()
        other.wait()
    held = holder(folder)
    assert held is not None, "a process that is killed gives nothing free"
    for elsewhere in (True, False):
        place = "another machine's" if elsewhere else held.place
        folder.put("_optinfer/lease/00000001.json", json.dumps(replace(held, place=place).as_dict()).encode())
        give_free_of_the_dead(folder)
        assert (holder(folder) is None) is not elsewhere
    assert folder.read(LOCK) is None

    folder.put(LOCK, json.dumps(held.as_dict()).encode())  # it was killed after it had let go of the rest
    give_free_of_the_dead(folder)
    assert folder.read(LOCK) is None


def test_a_second_run_is_refused_while_the_first_lives(folder: Folder) -> None:
    with RunLock(folder):
        with pytest.raises(OutputConflictError, match=rf"live run \(process {os.getpid()} on .*stop it and run again"):
            RunLock(folder).__enter__()
        held = holder(folder)
    assert held is not None, "the refused run must not take the lock away"


def test_who_is_refused_is_told_who_holds_the_output_and_since_when(folder: Folder) -> None:
    with RunLock(folder, clock=lambda: 1_800_000_000.0):
        said = rf"process {os.getpid()} on {re.escape(socket.gethostname())}, since 2027-01-15 08:00:00 UTC"
        with pytest.raises(OutputConflictError, match=said):
            RunLock(folder).__enter__()


def test_a_lock_of_the_version_before_says_when_its_process_began() -> None:
    assert described(record(pid=7, host="node", started=0.0)) == "process 7 on node, since 1970-01-01 00:00:00 UTC"


def test_the_lock_of_a_dead_process_is_taken_over_at_once(folder: Folder) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    started = psutil.Process(process.pid).create_time()
    process.wait()
    folder.put(LOCK, json.dumps(record(pid=process.pid, started=started).as_dict()).encode())
    with RunLock(folder):
        held = holder(folder)
        assert held is not None
        assert held.pid == os.getpid()


def test_a_run_that_lost_its_lock_leaves_it_to_the_new_holder(folder: Folder) -> None:
    with RunLock(folder):
        folder.put(SECOND, json.dumps(record(token="theirs", epoch=2).as_dict()).encode())
    held = holder(folder)
    assert held is not None
    assert held.token == "theirs"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"{}", b"null", b'{"token": 1, "pid": "x"}', b"\xff"])
@pytest.mark.parametrize("name", [LOCK, SECOND])
def test_a_lock_that_is_garbage_is_taken_over(folder: Folder, name: str, content: bytes) -> None:
    folder.put(name, content)
    assert holder(folder) is None
    with RunLock(folder):
        held = holder(folder)
        assert held is not None
        assert held.pid == os.getpid()
    assert holder(folder) is None


class GoneForABeat(Folder):
    """A folder whose store fails when it is written to; some of what is raised then is no OSError."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.errors: list[Exception] = []
        self.written = threading.Event()

    def put(self, name: str, data: bytes) -> None:
        if self.errors:
            raise self.errors.pop()
        super().put(name, data)
        self.written.set()


def test_a_store_that_is_gone_for_some_beats_does_not_end_the_heartbeat(folder: Folder) -> None:
    gone = GoneForABeat(folder.url)
    with RunLock(gone, beat_seconds=0.001):
        gone.errors = [
            EndpointConnectionError(endpoint_url="http://store"),
            ClientError({"Error": {"Code": "InternalError"}}, "PutObject"),
            aiohttp.ClientPayloadError("cut short"),
            StorageError("cannot use it"),
            ValueError("what nobody foresaw"),
            OSError("reset"),
        ]
        wait_until(lambda: not gone.errors, "all failures")
        gone.written.clear()
        assert gone.written.wait(10)
    assert holder(folder) is None


@pytest.mark.parametrize("lost", [flaky_store.done_and_lost, flaky_store.done_and_failed])
def test_a_run_does_not_refuse_itself_where_the_answer_to_its_lock_was_lost(
    bucket: str, flaky: FlakyStore, lost: Fault
) -> None:
    folder = Folder(f"{bucket}/out")
    flaky.meets, flaky.faults = lambda method, path, headers: method == "PUT", [lost]
    with RunLock(folder):
        assert not flaky.faults
        with pytest.raises(OutputConflictError, match="live run"):
            RunLock(folder).__enter__()
    assert holder(folder) is None


def test_a_store_that_is_gone_at_the_end_does_not_hide_how_the_run_ended(bucket: str, flaky: FlakyStore) -> None:
    folder = Folder(f"{bucket}/out", Waiting(seconds=0.05, first_wait=0.001, longest_wait=0.01, first_seconds=0.05))
    lock = RunLock(folder)
    lock.__enter__()
    flaky.meets, flaky.forever = lambda method, path, headers: True, flaky_store.reset
    lock.__exit__(QuarantineError, QuarantineError("too many"), None)


def test_what_only_the_holder_may_do_is_refused_when_another_took_over(folder: Folder) -> None:
    with RunLock(folder) as lock:
        lock.require()
        folder.put(SECOND, json.dumps(record(token="theirs", epoch=2, host="node-3", since=0.0).as_dict()).encode())
        lock.check()  # asks nobody
        with pytest.raises(OutputConflictError, match=r"taken over by another run \(process \d+ on node-3, since 1970"):
            lock.require()
        with pytest.raises(OutputConflictError, match="taken over by another run"):
            lock.check()


def test_whatever_the_main_thread_waits_for_ends_when_another_took_over(folder: Folder) -> None:
    def waits() -> None:
        with RunLock(folder, beat_seconds=0.01) as lock, lock.ending_what_waits():
            folder.put(SECOND, json.dumps(record(token="theirs", epoch=2, host="node-3").as_dict()).encode())
            threading.Event().wait()

    with pytest.raises(OutputConflictError, match="on node-3"):
        waits()


def test_an_interrupt_that_a_person_asked_for_stays_one(folder: Folder) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores them
    try:
        with pytest.raises(KeyboardInterrupt), RunLock(folder) as lock, lock.ending_what_waits():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
