"""How long a step may take, and the end of a process whose step does not end."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from optinfer.inference.at_work import Step, TimeLimits
from tests.conftest import REPO

_PROGRAM = """
import ctypes, threading
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from optinfer.inference.at_work import Step, TimeLimits, Watchdog

watchdog, step = Watchdog(TimeLimits(micro_batch=0.5)), Step(np.array([0]), 1)

def work(call):
    with watchdog(step):
        call()
    print("done", flush=True)

def native_that_keeps_the_gil():
    ctypes.PyDLL(None).sleep(10**6)

threads = ThreadPoolExecutor(2)
"""


def ended(lines: str) -> tuple[int, str, str]:
    """Run the program with these lines; return its exit code and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM + lines], capture_output=True, text=True, timeout=60, cwd=REPO
    )
    return done.returncode, done.stdout, done.stderr


def test_native_code_that_hangs_and_keeps_the_gil_takes_the_process_with_it() -> None:
    code, _, said = ended("threads.submit(work, native_that_keeps_the_gil).result()")
    assert code == 1
    assert "native_that_keeps_the_gil" in said, "the log says where it was"


def test_the_step_of_one_thread_is_watched_while_another_begins_and_ends_its_own() -> None:
    code, printed, _ = ended(
        "never = threads.submit(work, threading.Event().wait)\n"
        "while not never.done():\n    threads.submit(work, lambda: None).result()"
    )
    assert code == 1
    assert "done" in printed


def test_a_step_that_ended_and_the_loading_threads_are_not_watched() -> None:
    code, printed, _ = ended(
        "threads.submit(work, lambda: None).result()\nwork(lambda: threading.Event().wait(1.0))\nprint('alive')"
    )
    assert (code, printed.split()[-1]) == (0, "alive")


def test_rows_that_are_made_ready_together_have_time_for_each() -> None:
    limits, none = TimeLimits(micro_batch=60.0, row=0.5), np.array([], dtype=np.int64)
    assert limits.of(Step(np.arange(8), 8)) == 60
    assert limits.of(Step(none, 8)) == 60
    assert limits.of(Step(none, 1000)) == 500
