"""Jobs with faults: a variant whose replicas wait or die, and drivers in processes of their own, to be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from optinfer.optimization.variants import VARIANTS, Step, Variant
from tests.conftest import REPO
from tests.faults.changes import calls

__all__ = ["calls"]

# A driver process: the program, with the variant `faulty` that its first argument describes.
_DRIVER = """
import json, os, sys
from pathlib import Path
from optinfer.__main__ import program
from optinfer.cli import main

faults = json.loads(sys.argv.pop(1))

def command():
    from optinfer.optimization.variants import VARIANTS, Step, Variant

    Path(faults["folder"], "driver").write_text(str(os.getpid()))
    steps = (Step("fault", faults),)
    VARIANTS["faulty"] = Variant(name="faulty", steps=steps, backend="faulty", about="for tests")
    main()

program(command)
"""


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    """Return the folder where replicas with faults meet (see plugins/optinfer_faults.py)."""
    folder = tmp_path / "meeting"
    (folder / "calls").mkdir(parents=True)
    os.mkfifo(folder / "hold")
    return folder


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch, meeting: Path) -> Callable[..., str]:
    """Return a function that adds the variant `faulty` with these faults for jobs run in this process."""

    def add(**faults: Any) -> str:
        (meeting / "driver").write_text(str(os.getpid()))
        steps = (Step("fault", {"folder": str(meeting), **faults}),)
        monkeypatch.setitem(
            VARIANTS, "faulty", Variant(name="faulty", steps=steps, backend="faulty", about="for tests")
        )
        return "faulty"

    return add


@dataclass
class Driver:
    """A running `optinfer run --json`."""

    process: subprocess.Popen[str]

    def record(self, timeout: float = 180) -> dict[str, Any]:
        out, err = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, err
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        return found

    def alive(self) -> bool:
        return self.process.poll() is None

    def part(self, name: str) -> psutil.Process:
        """Return a process of this job: its `command`, of which the driver is the parent, or one of Ray's by its name."""
        command, *others = psutil.Process(self.process.pid).children(recursive=True)
        return command if name == "command" else next(one for one in others if one.name().startswith(name))

    def kill(self, number: int = signal.SIGKILL) -> str:
        """Send a signal to the driver alone, as the kernel or an operator would; return what it said."""
        os.kill(self.process.pid, number)
        return self.process.communicate(timeout=60)[1]


StartDriver = Callable[..., Driver]


@pytest.fixture
def start_driver(s3_endpoint: str) -> Iterator[StartDriver]:
    """Return a function that starts a driver with its own Ray; one still running afterwards is killed."""
    started: list[subprocess.Popen[str]] = []

    def start(job: Path, **faults: Any) -> Driver:
        command = [sys.executable, "-c", _DRIVER, json.dumps(faults), "run", str(job), "--json", "--address", "local"]
        process = subprocess.Popen(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return Driver(process)

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()
