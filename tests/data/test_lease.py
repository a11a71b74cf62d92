"""Who holds an output, told from those who did: by epochs, by processes, and by watching; never by two clocks."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from optinfer.data.lease import STALE_SECONDS, Holder, Lease, Watch, holder, is_live, let_go
from optinfer.data.lock import RunLock
from optinfer.data.storage import Folder
from optinfer.errors import OutputConflictError
from optinfer.system import process
from tests.conftest import REPO

LEASE, BEFORE = "_optinfer/lease", "_optinfer/lock.json"
LOOK = 20.0
# A process that has ids of its own, as in a container.
APART = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return Folder(f"{request.getfixturevalue('bucket')}/out" if request.param == "s3" else str(tmp_path / "out"))


@pytest.fixture(scope="module")
def apart() -> list[str]:
    try:
        subprocess.run([*APART, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no process may have a namespace of its own here ({error})")
    return APART


def record(**changes: Any) -> Holder:
    """Return the record of this process, changed."""
    me = psutil.Process()
    mine = Holder(
        token="t",
        host=socket.gethostname(),
        pid=me.pid,
        started=me.create_time(),
        beat=0.0,
        epoch=1,
        place=process.here().id,
        began=process.began(me.pid),
        sign="s",
    )
    return replace(mine, **changes)


def write(folder: Folder, held: Holder) -> None:
    folder.put(f"{LEASE}/{held.epoch:08d}.json", json.dumps(held.as_dict()).encode())


class Seconds:
    """A clock that goes on by a look's time whenever somebody waits, and what is done meanwhile."""

    def __init__(self, *meanwhile: Any) -> None:
        self.now, self.waits, self._meanwhile = 1000.0, 0, iter(meanwhile)

    def __call__(self) -> float:
        return self.now

    def wait(self, of: Holder | float) -> None:
        self.now += LOOK
        self.waits += 1
        next(self._meanwhile, lambda: None)()


def take(folder: Folder, seconds: Seconds | None = None) -> Lease:
    seconds = seconds or Seconds()
    lease = Lease(folder, Watch(seconds, LOOK))
    lease.take(seconds.wait)
    return lease


class TestEpochs:
    def test_each_run_has_an_epoch_of_its_own(self, folder: Folder) -> None:
        epochs = []
        for _ in range(3):
            lease = take(folder)
            epochs.append(lease.epoch)
            let_go(folder, lease.record)
        assert epochs == [1, 2, 3]
        assert folder.names(under=LEASE) == ["00000003.json"], "what came before is cleared away"

    def test_of_many_who_take_at_once_one_wins(self, folder: Folder) -> None:
        write(folder, record(began=1.0))  # of a process that is dead
        start = threading.Barrier(6)

        def one(_: int) -> int | None:
            lease = Lease(folder, Watch())
            start.wait()
            try:
                lease.take(Seconds().wait)
            except OutputConflictError:
                return None
            return lease.epoch

        with ThreadPoolExecutor(6) as pool:
            won = [epoch for epoch in pool.map(one, range(6)) if epoch]
        assert won == [2]

    def test_a_claim_whose_answer_was_lost_is_a_claim(self, folder: Folder) -> None:
        class Forgetful(Folder):
            def put_new(self, name: str, data: bytes) -> bool:
                return super().put_new(name, data) and False

        assert take(Forgetful(folder.url)).epoch == 1

    def test_who_comes_back_finds_who_took_it(self, folder: Folder) -> None:
        lease = take(folder)
        write(folder, record(epoch=2, token="theirs"))
        taker = lease.renew()
        assert taker is not None
        assert taker.token == "theirs"
        let_go(folder, lease.record)
        held = holder(folder)
        assert held is not None
        assert held.token == "theirs", "his sign of life and his end are no one's but his own"

    def test_who_loses_it_while_the_sign_is_written_finds_that(self, folder: Folder) -> None:
        class Slow(Folder):
            overtaken = False

            def put(self, name: str, data: bytes) -> None:
                if self.overtaken:
                    write(folder, record(epoch=2, token="theirs"))
                super().put(name, data)

        slow = Slow(folder.url)
        lease = take(slow)
        slow.overtaken = True
        taker = lease.renew()
        assert taker is not None
        assert taker.token == "theirs"
        let_go(folder, taker)
        assert folder.read(BEFORE) is None, "what was written too late is no lock of the version before"

    def test_who_comes_back_after_the_taker_ended_has_lost_it_all_the_same(self, folder: Folder) -> None:
        lease = take(folder)
        write(folder, record(epoch=2, token="theirs", ended=True))
        assert lease.renew() is not None

    def test_a_lease_that_was_removed_is_put_back(self, folder: Folder) -> None:
        lease = take(folder)
        folder.delete("_optinfer")
        assert lease.renew() is None
        assert holder(folder) is not None

    def test_after_a_removal_the_one_who_took_the_same_epoch_keeps_it(self, folder: Folder) -> None:
        lease = take(folder)
        folder.delete("_optinfer")
        write(folder, record(token="theirs"))
        assert lease.renew() is not None

    def test_a_clone_of_a_running_run_is_found(self, folder: Folder) -> None:
        """A machine that is cloned while it runs has a run with the same token, of which one beats first."""
        lease = take(folder)
        held = holder(folder)
        assert held is not None
        write(folder, replace(held, sign="the clone's"))
        assert lease.renew() is not None

    def test_a_sign_whose_answer_was_lost_is_its_own(self, folder: Folder) -> None:
        class Forgetful(Folder):
            lost = False

            def put(self, name: str, data: bytes) -> None:
                super().put(name, data)
                if self.lost:
                    raise OSError("no answer")

        forgetful = Forgetful(folder.url)
        lease = take(forgetful)
        forgetful.lost = True
        with pytest.raises(OSError, match="no answer"):
            lease.renew()
        forgetful.lost = False
        assert lease.renew() is None


class TestWhoLives:
    def test_a_process_of_this_machine_is_asked_for(self) -> None:
        assert is_live(record(), now=1e12)
        assert not is_live(record(began=1.0), now=0.0), "its id is another's by now"

    def test_a_clock_that_is_put_right_ends_nobody(self) -> None:
        assert Watch().lives(record(started=0.0, beat=-1e9)) is True

    def test_the_same_name_and_id_elsewhere_is_another_process(self) -> None:
        assert Watch().lives(record(place="a container")) is None
        assert Watch().lives(record(place="a container", began=1.0)) is None, "nor is it dead"

    def test_a_killed_process_that_nobody_collected_is_dead(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        held = record(pid=child.pid, began=process.began(child.pid))
        assert is_live(held, now=0.0)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is dead now, and still listed
        assert not is_live(held, now=0.0)
        child.communicate()

    def test_at_a_glance_one_elsewhere_lives_while_its_clock_says_so(self) -> None:
        elsewhere = record(place="elsewhere", beat=1_000.0)
        assert is_live(elsewhere, now=1_000.0 + STALE_SECONDS - 1)
        assert not is_live(elsewhere, now=1_000.0 + STALE_SECONDS + 1)


class TestWatching:
    @pytest.mark.parametrize("beat", [-1e9, 1e12], ids=["clock behind", "clock ahead"])
    def test_one_elsewhere_who_is_silent_is_replaced_whatever_its_clock_says(self, folder: Folder, beat: float) -> None:
        write(folder, record(place="elsewhere", beat=beat))
        seconds = Seconds()
        assert take(folder, seconds).epoch == 2
        assert seconds.waits * LOOK >= STALE_SECONDS

    @pytest.mark.parametrize("beat", [-1e9, 1e12], ids=["clock behind", "clock ahead"])
    def test_one_elsewhere_who_says_a_word_is_not(self, folder: Folder, beat: float) -> None:
        held = record(place="elsewhere", beat=beat)
        write(folder, held)
        seconds = Seconds(lambda: None, lambda: write(folder, replace(held, sign="another")))
        with pytest.raises(OutputConflictError, match=rf"live run \(process {os.getpid()} on "):
            take(folder, seconds)
        assert seconds.waits == 2

    def test_time_in_which_the_watcher_did_not_run_counts_for_nothing(self) -> None:
        seconds = Seconds()
        watch, held = Watch(seconds, LOOK), record(place="elsewhere")
        assert watch.lives(held) is None
        seconds.now += 10 * STALE_SECONDS
        assert watch.lives(held) is None

    def test_one_who_ended_is_not_watched(self, folder: Folder) -> None:
        write(folder, record(place="elsewhere", ended=True))
        seconds = Seconds()
        assert (take(folder, seconds).epoch, seconds.waits) == (2, 0)

    def test_who_waits_is_told_for_whom(self, folder: Folder) -> None:
        write(folder, record(place="elsewhere", host="node-3", pid=4711, since=0.0))
        seconds, said = Seconds(), []
        with RunLock(folder, said.append, watch=Watch(seconds, LOOK), wait=seconds.wait):  # type: ignore[arg-type]
            pass
        (line,) = said
        assert "held by process 4711 on node-3, since 1970-01-01 00:00:00 UTC" in line


class TestTheVersionBefore:
    def test_its_live_run_is_refused(self, folder: Folder) -> None:
        lock = record(epoch=0, place=None, began=None, sign="")
        folder.put(BEFORE, json.dumps(lock.as_dict()).encode())
        with pytest.raises(OutputConflictError, match="live run"):
            take(folder)

    def test_its_lock_of_elsewhere_is_watched(self, folder: Folder) -> None:
        seconds = Seconds()
        lock = record(epoch=0, place=None, began=None, sign="", host="elsewhere", beat=1e12)
        folder.put(BEFORE, json.dumps(lock.as_dict()).encode())
        assert take(folder, seconds).epoch == 1
        assert seconds.waits * LOOK >= STALE_SECONDS

    def test_it_finds_this_run_where_it_looks(self, folder: Folder) -> None:
        """Of a lock it reads token, host, pid, started, since and beat, and a run that lost it goes by the token."""
        lease = take(folder)
        found = json.loads(folder.read(BEFORE) or b"")
        assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
        assert found["started"] == psutil.Process().create_time()
        lease.renew()
        assert json.loads(folder.read(BEFORE) or b"")["beat"] > found["beat"]
        let_go(folder, lease.record)
        assert folder.read(BEFORE) is None


class Held:
    """A run of another machine, as far as process ids tell; `process` is the one that holds."""

    def __init__(self, started: subprocess.Popen[str]) -> None:
        assert started.stdout is not None
        assert started.stdout.readline() == "held\n"
        self.started, self.process = started, psutil.Process(started.pid).children(recursive=True)[-1]


@contextmanager
def held_apart(folder: Folder, apart: list[str]) -> Iterator[Held]:
    command = [*apart, sys.executable, "-m", "tests.data.holding", folder.url]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": REPO}
    with subprocess.Popen(command, **pipes) as started:  # type: ignore[call-overload]
        try:
            yield Held(started)
        finally:
            started.kill()


class TestRuns:
    """Real processes with a namespace of their own."""

    def test_a_live_run_of_a_machine_of_the_same_name_is_refused(self, folder: Folder, apart: list[str]) -> None:
        with held_apart(folder, apart):
            held, pause = holder(folder), threading.Event()
            assert held is not None
            assert (held.host, held.place == process.here().id) == (socket.gethostname(), False)
            with pytest.raises(OutputConflictError, match="live run"):
                Lease(folder, Watch()).take(lambda of: pause.wait(0.05) and None)

    @pytest.mark.parametrize("stopped", [False, True], ids=["killed", "stopped"])
    def test_one_that_is_silent_is_replaced_and_ends_when_it_wakes(
        self, folder: Folder, apart: list[str], stopped: bool
    ) -> None:
        with held_apart(folder, apart) as run:
            run.process.send_signal(signal.SIGSTOP if stopped else signal.SIGKILL)
            lease = take(folder)
            assert lease.epoch == 2
            if stopped:
                run.process.send_signal(signal.SIGCONT)
                assert run.started.wait() == 5, "its stdin is open: it ended by itself"
                assert run.started.stdout is not None
                said = run.started.stdout.read()
                assert f"was taken over by another run (process {os.getpid()} on {socket.gethostname()}, since" in said
            assert lease.renew() is None, "it changed nothing"
