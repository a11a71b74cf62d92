"""Runs what is measured, each in a fresh Python process, and reads what it said; all benchmarks go through here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from optinfer.tracking import journal

REPOSITORY = Path(__file__).resolve().parents[2]
# A process that takes longer than start-up and a second for every row hangs; one that proves variants may take longer.
_STARTUP_LIMIT_SECONDS = 600
_PREPARING_LIMIT_SECONDS = 3 * 3600


class ContestantError(Exception):
    """A contestant's process failed; the message ends with what it said."""


@dataclass(frozen=True)
class JobRun:
    """One whole job: wall clock of its process, what `run --json` printed, and the metrics its journal ends with."""

    seconds: float
    record: dict[str, Any]
    metrics: dict[str, float]


def set_environment() -> None:
    """Give every process the same home, and none a way to the network: the model is a local folder."""
    # Absolute: the processes work in another folder.
    os.environ["OPTINFER_HOME"] = os.path.abspath(os.environ.get("OPTINFER_HOME") or REPOSITORY / ".optinfer")
    os.environ.update(HF_HUB_OFFLINE="1", RAY_USAGE_STATS_ENABLED="0", DO_NOT_TRACK="1")


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def python(limit: float, *arguments: str) -> tuple[float, str]:
    """Run a Python process to its end, `limit` seconds at most; return its seconds and the last line of its stdout."""
    command, here = [sys.executable, *arguments], Path(__file__).parent
    started = perf_counter()
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as error:
        raise ContestantError(f"not done after {limit:g} s, ended") from error
    seconds = perf_counter() - started
    if done.returncode:
        raise ContestantError(f"exit code {done.returncode}: {done.stderr[-2000:].strip()}")
    return seconds, (done.stdout.splitlines() or [""])[-1]


def limit(rows: int) -> float:
    return _STARTUP_LIMIT_SECONDS + rows


def prepare(job: Path) -> dict[str, Any]:
    """Build and certify a job's variant (with `auto`, prove every one); see preparation.py for what is returned."""
    facts: dict[str, Any] = json.loads(python(_PREPARING_LIMIT_SECONDS, "-m", "preparation", str(job))[1])
    return facts


def run_job(job: Path, rows: int) -> JobRun:
    seconds, said = python(limit(rows), "-m", "optinfer", "run", str(job), "--address", "local", "--json")
    record = json.loads(said)
    manifest = json.loads((Path(record["output"]) / "_manifest.json").read_text(encoding="utf-8"))
    (finish,) = [event for event in journal.read(Path(manifest["journal"])) if event["event"] == "finish"]
    return JobRun(seconds, record, finish["metrics"])


def run_raw(job: Path, rows: int, vectors: Path, *options: str) -> dict[str, Any]:
    """Run the raw loop of a job's variant; see contestants/raw_loop.py for what is returned."""
    said: dict[str, Any] = json.loads(
        python(limit(2 * rows), "-m", "contestants.raw_loop", str(job), str(vectors), *options)[1]
    )
    return said


def run_worker(job: Path, rows: int) -> dict[str, Any]:
    """Run the worker loop of a job; see contestants/worker_loop.py for what is returned, plus `seconds`."""
    seconds, said = python(limit(rows), "-m", "contestants.worker_loop", str(job))
    return {**json.loads(said), "seconds": seconds}
