"""The parent of a command: whatever ends the command's process, its end is told, with a code that means something."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from optinfer.data.lock import holder
from optinfer.data.storage import Folder
from optinfer.tracking.events import Finished, Warned
from optinfer.tracking.journal import Journal, close_of_the_dead, read
from tests.conftest import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a command runs without a parent of ours")

# A command that holds an output and keeps a journal, and then does what its first argument says.
_PROGRAM = """
import contextlib, os, signal, subprocess, sys, threading, time
from optinfer.__main__ import program
from optinfer.system import will

def body():
    from optinfer.data.lock import RunLock
    from optinfer.data.storage import Folder
    from optinfer.tracking.events import Warned
    from optinfer.tracking.journal import Journal
    from pathlib import Path

    journal = Journal(Path("journal.jsonl"), time.time)
    journal.write(Warned("begun"))
    with RunLock(Folder("out")):
        other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        Path("pids").write_text(f"{os.getpid()} {other.pid}")
        exec(sys.argv.pop(1))

def main():
    from optinfer.cli import main as real, _end_when_asked
    _end_when_asked()
    try:
        body()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        exec(afterwards)
        sys.exit(130)

afterwards = os.environ.get("AFTERWARDS", "")
program(main)
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Return a function that starts such a command; `afterwards` is what it does once it has said its last word."""

    def starting(does: str, *arguments: str, afterwards: str = "") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, does, *arguments],
            cwd=tmp_path,
            env={**os.environ, "AFTERWARDS": afterwards},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return starting


def pids(folder: Path) -> list[int]:
    """Return the command's process and the one that it started, once both are there."""
    return list(
        map(int, wait_until(lambda: (folder / "pids").exists() and (folder / "pids").read_text(), "pids").split())
    )


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", "was killed by SIGKILL"),
        ("os.write(2, b'check failed: raylet'); os.abort()", "crashed in a native library (SIGABRT)"),
        ("import ctypes; ctypes.string_at(0)", "crashed in a native library (SIGSEGV)"),
        ("os.write(2, b'check failed: raylet'); os._exit(1)", "was ended by a native library (exit code 1)"),
        ("os._exit(0)", "was ended by a native library (exit code 0)"),
    ],
)
def test_an_end_that_the_process_could_not_tell_is_told_by_its_parent(
    does: str, said: str, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start(does, "run", "--json")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "check failed" not in err, "what native libraries write is kept from the terminal"
    (line,) = err.splitlines()
    assert said in line
    assert "committed fragments are kept, the same command goes on from them" in line
    told = json.loads(out)
    assert (told["status"], told["exit_code"], f"error: {told['message']}") == ("failed", 1, line)
    if "check failed" in does or "crashed" in said:
        kept = Path(line.partition("what it said last is in ")[2].partition(";")[0]).read_text()
        assert kept.startswith("check failed: raylet") == ("check failed" in does)
        assert (" in body\n" in kept) == ("crashed" in said), "where each thread was"
    assert holder(Folder(str(tmp_path / "out"))) is None, "the output is free"
    assert json.loads((tmp_path / "out" / "_optinfer" / "ended.json").read_text())["exit_code"] == 1
    end = list(read(tmp_path / "journal.jsonl"))[-1]
    assert (end["event"], end["status"]) == ("finish", "failed")
    assert all(map(gone, pids(tmp_path))), "what it started is gone with it"


@pytest.mark.parametrize(
    ("number", "afterwards"),
    [
        (signal.SIGTERM, "os.abort()"),
        (signal.SIGTERM, "os.kill(os.getpid(), signal.SIGTERM)"),
        (signal.SIGINT, ""),
        (signal.SIGHUP, ""),
    ],
)
def test_who_asks_a_command_to_end_is_told_130_whatever_its_process_makes_of_it(
    number: int, afterwards: str, tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("threading.Event().wait()", "run", afterwards=afterwards)
    command, started = pids(tmp_path)
    os.kill(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.startswith("interrupted\n"), "it was told itself, and could close what it held"
    assert gone(command)
    assert gone(started)
    assert holder(Folder(str(tmp_path / "out"))) is None


@pytest.mark.parametrize(("note", "code"), [("will.ENDED, code='3'", 3), ("will.LOST, message='Ray is gone'", 77)])
def test_a_process_that_has_nothing_left_to_do_and_does_not_end_is_ended(note: str, code: int) -> None:
    program = (
        "import os, threading; from optinfer.system import will; from optinfer.system.guard import guarded\n"
        f"def hang(): will.leave({note}); threading.Event().wait()\n"
        "os._exit(guarded(hang, lambda death: 77, seconds_to_end=0.0))"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == code


def test_a_parent_that_is_killed_takes_the_command_with_it(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("threading.Event().wait()", "run")
    command, started = pids(tmp_path)
    process.kill()
    process.wait()
    wait_until(lambda: gone(command), "the command's end")
    os.kill(started, signal.SIGKILL)


def test_the_code_of_a_command_is_its_own(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("print('answer'); sys.exit(3)", "run")
    assert (process.communicate(timeout=60), process.returncode) == (("answer\n", ""), 3)


def test_a_journal_that_was_cut_off_is_closed_once(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, lambda: 1.0)
    journal.write(Warned("whole"))
    with open(path, "a") as file:
        file.write('{"event": "rec')
    for _ in range(2):
        close_of_the_dead(path, Finished(status="failed"), lambda: 2.0)
    assert [event["event"] for event in read(path)] == ["warning", "finish"]
