"""A process is told from another of the same id, on a machine of the same name."""

from __future__ import annotations

import os
import subprocess
import sys

from optinfer.system import process

SAY = "from optinfer.system import process; import os; print(process.here().id, process.began(os.getppid()))"


def test_processes_of_one_machine_agree() -> None:
    said = subprocess.run([sys.executable, "-c", SAY], capture_output=True, text=True, check=True).stdout.split()
    assert said == [process.here().id, str(process.began(os.getpid()))]


def test_a_process_that_began_later_began_at_another_time() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        began, mine = process.began(child.pid), process.began(os.getpid())
        assert began is not None
        assert mine is not None
        assert began > mine
        child.kill()
    assert process.began(child.pid) is None
