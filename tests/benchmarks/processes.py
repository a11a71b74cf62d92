"""Where a job's CPU time goes: seconds by process of one whole `optinfer run`, and by function where asked for.

The job's processes are the driver, its replicas and Ray's own; each one's CPU time is read twice a second, in the
last second before it ends at the latest. The job is prepared beforehand, so nothing is built or certified meanwhile.
With `--spy FOLDER`, py-spy samples driver and replicas 25 times a second into FOLDER/{driver,replica}-PID.txt (its raw
format: one stack and its count a line); that disturbs what is measured, so those seconds are not for comparing.

The LAST line of stdout is ONE JSON object: {"variant", "rows", "seconds", "startup_seconds", "rows_per_second",
"steady_rows_per_second", "time" (the job's own breakdown), "cpu_seconds": {kind: seconds}, "startup_cpu_seconds" (of
these, before the first part was committed), "processes": {kind: how many}}.

Usage: python tests/benchmarks/processes.py [--rows 8192] [--source FILE] [--variant openvino-int8-static] [--spy FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from line_up import Bench
from running import ContestantError, prepare, say, set_environment
from tables import commits, cut_table
from throughput import DEFAULT_MODEL, DEFAULT_SOURCE, count

from optinfer.config import ModelConfig
from optinfer.models import source as model_source

_EVERY_SECONDS = 0.5
_SAMPLES_A_SECOND = 25
DRIVER, REPLICA = "driver", "replica"


def kind(name: str, command: Sequence[str], is_driver: bool) -> str:
    """Say what a process of a job is."""
    if is_driver:
        return DRIVER
    title = " ".join(command)
    for found, mark in (
        (REPLICA, "FragmentScorer"),
        ("raylet", "raylet/raylet"),
        ("gcs_server", "gcs_server"),
        ("dashboard", "dashboard"),
        ("runtime_env_agent", "runtime_env"),
        ("log_monitor", "log_monitor"),
        ("idle workers", "ray::IDLE"),
        ("idle workers", "default_worker"),
    ):
        if mark in title:
            return found
    return title.split()[0] if title.startswith("ray::") else name


@dataclass
class Meter:
    """Reads the CPU seconds of a process and all below it."""

    driver: psutil.Process
    spy: Path | None
    seconds: dict[tuple[int, float], float] = field(default_factory=dict)
    kinds: dict[tuple[int, float], str] = field(default_factory=dict)
    spied: dict[tuple[int, float], subprocess.Popen[bytes]] = field(default_factory=dict)

    def read(self) -> None:
        for process in self._processes():
            try:
                key = (process.pid, process.create_time())
                times = process.cpu_times()
                self.seconds[key] = times.user + times.system
                # A worker's title says what it does once it does it; what it did is what its last title says.
                found = kind(process.name(), process.cmdline(), process.pid == self.driver.pid)
                if self.kinds.get(key) != REPLICA:
                    self.kinds[key] = found
                self._attach(key, found)
            except psutil.Error:
                continue

    def by_kind(self) -> dict[str, float]:
        totals: Counter[str] = Counter()
        for key, seconds in self.seconds.items():
            totals[self.kinds[key]] += seconds  # type: ignore[assignment]
        return {name: round(seconds, 2) for name, seconds in totals.most_common()}

    def _processes(self) -> list[psutil.Process]:
        try:
            return [self.driver, *self.driver.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _attach(self, key: tuple[int, float], found: str) -> None:
        if self.spy is None or found not in (DRIVER, REPLICA) or key in self.spied:
            return
        file = self.spy / f"{found}-{key[0]}.txt"
        options = ["--rate", str(_SAMPLES_A_SECOND), "--format", "raw", "--threads", "--output", str(file)]
        command = ["py-spy", "record", "--pid", str(key[0]), "--nonblocking", *options]
        path = Path(sys.executable).parent / "py-spy"
        self.spied[key] = subprocess.Popen(
            command, executable=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )


def measure(bench: Bench, variant: str, spy: Path | None) -> dict[str, Any]:
    job, output = bench.job(variant), bench.output(variant)
    say(f"preparing {variant} (not timed)")
    if reason := prepare(job).get("refused"):
        raise ContestantError(f"{variant} may not score: {reason}")
    command = [sys.executable, "-m", "optinfer", "run", str(job), "--address", "local", "--json"]
    started, startup = time.monotonic(), {}
    said, log = bench.folder / "said", bench.folder / "log"
    with open(said, "wb") as out, open(log, "wb") as err:
        driver = subprocess.Popen(command, stdout=out, stderr=err)
    meter = Meter(psutil.Process(driver.pid), spy)
    while driver.poll() is None:
        meter.read()
        if not startup and next(output.glob("part-*.parquet"), None):
            startup = meter.by_kind()
        with contextlib.suppress(subprocess.TimeoutExpired):
            driver.wait(_EVERY_SECONDS)
    seconds = time.monotonic() - started
    for spying in meter.spied.values():
        spying.wait()
    if driver.returncode:
        raise ContestantError(f"exit code {driver.returncode}: {log.read_text()[-2000:]}")
    record = json.loads(said.read_text().splitlines()[-1])
    kinds = Counter(meter.kinds.values())
    return {
        "variant": record["variant"],
        "rows": record["rows_out"],
        "seconds": round(seconds, 2),
        **{name: record[name] for name in ("startup_seconds", "rows_per_second", "steady_rows_per_second", "time")},
        "parts": len(commits(output)),
        "cpu_seconds": meter.by_kind(),
        "startup_cpu_seconds": startup,
        "processes": dict(kinds),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="CPU seconds of a job by process.")
    parser.add_argument("--rows", type=count, default=8192, help="default: %(default)s")
    parser.add_argument("--source", default=str(DEFAULT_SOURCE), help="Parquet file or folder")
    parser.add_argument("--text-column", default="text", help="default: %(default)s")
    parser.add_argument("--variant", default="openvino-int8-static", help="default: %(default)s")
    parser.add_argument("--spy", type=Path, help="an existing folder for py-spy's samples (needs py-spy)")
    options = parser.parse_args(arguments)
    set_environment()
    with tempfile.TemporaryDirectory(prefix="optinfer-processes-") as folder:
        table = Path(folder, "table.parquet")
        rows = cut_table(options.source, options.text_column, options.rows, table)
        model = Path(model_source.locate(ModelConfig(path=DEFAULT_MODEL, family="text-embedding")).path)
        bench = Bench(Path(folder), table, rows, table, rows, model)
        print(json.dumps(measure(bench, options.variant, options.spy)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
