"""What MLflow's outages cost a job, in seconds, beside a job that is not tracked at all: a table.

A job here is a process that records what a run records: its start, forty fragments in two seconds, its end. Measured is
from its start until its process is gone; importing MLflow, which is the same in each, is done before. The servers are real
processes, the silent one a real socket, the locked file is locked by a real transaction. The LAST line of stdout is ONE
JSON object: {outage: {"seconds", "more", "exit_code", "said"}}, medians; `more` is against none.

Usage: python -m tests.tracking.outages [--repeats 3]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.conftest import free_ports
from tests.tracking.endpoint import NEVER, endpoint
from tests.tracking.mlflow_server import MlflowServer

NONE = "no tracking"
_JOB = """
import sys, time
if sys.argv[1] == "no tracking":
    sys.modules["mlflow"] = None  # neither imported nor asked
else:
    import mlflow.store.tracking.rest_store, mlflow.store.tracking.sqlalchemy_store
from optinfer.config import TrackingConfig
from optinfer.tracking.recorder import new_run_id, recorder_of
from tests.tracking.test_mlflow_tracker import FINISH, START, committed

def meet(moment):
    print(moment, flush=True)
    sys.stdin.readline()

meet("begin")
with recorder_of(TrackingConfig(uri=sys.argv[1], experiment="outages"), new_run_id(), print) as recorder:
    recorder.event(START)
    for fragment in range(40):
        time.sleep(0.05)
        recorder.event(committed(fragment))
        if fragment == 20:
            meet("middle")
    meet("end")
    recorder.finish(FINISH)
"""
Act = Callable[[], None]


def nothing() -> None:
    pass


def measure(uri: str, middle: Act = nothing, end: Act = nothing) -> tuple[float, int, str]:
    """Return a job's seconds, those of `middle` and `end` left out, its exit code and the last line it said."""
    environ = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    began, away, said = 0.0, 0.0, ""
    command = [sys.executable, "-c", _JOB, uri]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as job:
        assert job.stdin
        assert job.stdout
        for line in job.stdout:
            act = {"begin": nothing, "middle": middle, "end": end}.get(line.strip())
            if act is None:
                said = line.strip()
                continue
            at = time.perf_counter()
            act()
            began, away = began or at, away + time.perf_counter() - at
            job.stdin.write("\n")
            job.stdin.flush()
    return time.perf_counter() - began - away, int(job.returncode), said


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[str]:
    with contextlib.closing(sqlite3.connect(folder / "locked.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield f"sqlite:///{folder}/locked.db"


def outages(folder: Path, server: MlflowServer) -> Iterator[tuple[str, tuple[float, int, str]]]:
    """Measure each once."""
    yield NONE, measure(NONE)
    yield "none, a server", measure(server.url)
    yield "none, SQLite", measure(f"sqlite:///{folder}/mlflow.db")
    yield "down at the start", measure(f"http://127.0.0.1:{free_ports(1)[0]}")
    yield "killed in the middle", measure(server.url, middle=server.kill)
    server.start()
    yield "killed at the end", measure(server.url, end=server.kill)
    server.start()
    with endpoint(500) as broken:
        yield "answers 500", measure(broken.url)
    with endpoint(NEVER) as silent:
        yield "never answers", measure(silent.url)
    with locked(folder) as uri:
        yield "SQLite, locked", measure(uri)
    yield "SQLite, cannot be written", measure("sqlite:////proc/mlflow.db")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    found: dict[str, list[tuple[float, int, str]]] = {}
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["OPTINFER_HOME"] = str(folder / "home")
        server = MlflowServer(folder, *free_ports(1))
        server.start()
        try:
            for _ in range(repeats):
                for outage, measured in outages(folder, server):
                    print(f"{outage}: {measured[0]:.1f} s, exit {measured[1]}, {measured[2]}", file=sys.stderr)
                    found.setdefault(outage, []).append(measured)
        finally:
            server.kill()
    none = statistics.median(seconds for seconds, _, _ in found[NONE])
    table = {}
    for outage, each in found.items():
        seconds = statistics.median(seconds for seconds, _, _ in each)
        table[outage] = {
            "seconds": round(seconds, 2),
            "more": round(seconds - none, 2),
            "exit_code": max(code for _, code, _ in each),
            "said": each[-1][2],
        }
        print(f"| {outage} | {seconds:.1f} | {seconds - none:+.1f} | {table[outage]['exit_code']} |")
    print(json.dumps(table))


if __name__ == "__main__":
    main()
